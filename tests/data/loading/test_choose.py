from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.data.loading.test_worker_loader import BATCH, SIZE, assert_epoch, end_workers, write_index
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.images.cache import open_cache
from yolo_lightning.data.loading import choose as loaders_room
from yolo_lightning.data.loading.choose import evaluation_loader, train_loader
from yolo_lightning.data.loading.dataset import DetectionDataset
from yolo_lightning.data.loading.device_feed import BatchLoader, DeviceFeed
from yolo_lightning.data.loading.device_loader import ResidentLoader
from yolo_lightning.data.loading.sampler import EvalSampler, SameShapeBatchSampler, TrainSampler
from yolo_lightning.data.loading.shared_slots import Slots
from yolo_lightning.data.loading.worker_loader import TrainLoader, prepare_worker

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    return write_index(tmp_path_factory.mktemp("loaders"))


@pytest.fixture
def made(index: DatasetIndex) -> Iterator[list[BatchLoader]]:
    loaders: list[BatchLoader] = []
    yield loaders
    for loader in loaders:
        if isinstance(loader, TrainLoader):
            end_workers(loader)


def _train_loader(index: DatasetIndex, workers: int, device: torch.device, resident: bool) -> BatchLoader:
    cache = open_cache(index, SIZE, True, "disk") if resident else None
    dataset = DetectionDataset(index, SIZE, 16, True, cache)
    return train_loader(dataset, TrainSampler(dataset, BATCH, seed=5), BATCH, workers, device, resident)


@pytest.mark.parametrize(("workers", "resident"), [(0, False), (2, False), (0, True)])
def test_on_a_cpu(index: DatasetIndex, made: list[BatchLoader], workers: int, resident: bool) -> None:
    loader = _train_loader(index, workers, CPU, resident)
    made.append(loader)
    assert type(loader) is (ResidentLoader if resident else TrainLoader)
    assert loader.workers == workers
    for epoch in (0, 3):
        loader.sampler.set_epoch(epoch)
        assert_epoch(list(loader), index, epoch)


def test_on_a_gpu_a_feed_copies_from_locked_slots(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[Slots] = []
    monkeypatch.setattr(Slots, "pin", lambda slots: locked.append(slots))
    feed = _train_loader(index, 3, GPU, resident=False)
    assert isinstance(feed, DeviceFeed) and isinstance(feed.loader, TrainLoader)
    assert locked == [feed.loader.slots]
    assert (feed.device, feed.workers, len(feed)) == (GPU, 3, 3) and feed.sampler is feed.loader.sampler


def test_on_a_gpu_resident_images_are_fed_without_slots(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[object, ...]] = []

    class Resident:
        sampler, workers, read_fraction = "its sampler", 0, 0.0

        def __init__(self, *arguments: object) -> None:
            made.append(arguments)

    monkeypatch.setattr(loaders_room, "ResidentLoader", Resident)
    feed = _train_loader(index, 0, GPU, resident=True)
    assert isinstance(feed, DeviceFeed) and isinstance(feed.loader, Resident)
    assert made[0][2:] == (BATCH, GPU) and feed.sampler == "its sampler"


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_takes_every_image_once_and_keeps_its_workers(index: DatasetIndex, workers: int) -> None:
    dataset = DetectionDataset(index, SIZE, 16, False)
    batches = SameShapeBatchSampler(EvalSampler(dataset), 2)
    loader = evaluation_loader(dataset, batches, workers, pin_memory=False)
    assert loader.worker_init_fn is prepare_worker and loader.persistent_workers == (workers > 0)
    for _ in range(2):
        found = list(loader)
        assert [batch.index.tolist() for batch in found] == batches.batches
        for batch in found:
            assert batch.images.shape[2:] == tuple(dataset.canvases[int(batch.index[0])])
            for i, picture in zip(batch.index.tolist(), batch.images, strict=True):
                assert torch.equal(picture.permute(1, 2, 0), torch.from_numpy(dataset[i].image))
