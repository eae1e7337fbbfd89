from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.data.loading.test_worker_loader import BATCH, SIZE, assert_epoch, end_workers, write_index
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.images.cache import open_cache
from yolo_lightning.data.loading import device_loader, ordered
from yolo_lightning.data.loading.choose import evaluation_loader, train_loader
from yolo_lightning.data.loading.dataset import DetectionDataset
from yolo_lightning.data.loading.device_loader import DeviceLoader
from yolo_lightning.data.loading.ordered import OrderedLoader
from yolo_lightning.data.loading.sampler import EvalSampler, SameShapeBatchSampler, TrainSampler
from yolo_lightning.data.loading.shared_slots import Slots
from yolo_lightning.data.loading.worker_loader import WorkerLoader, prepare_worker

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    return write_index(tmp_path_factory.mktemp("loaders"))


@pytest.fixture
def made(index: DatasetIndex) -> Iterator[list[OrderedLoader]]:
    loaders: list[OrderedLoader] = []
    yield loaders
    for loader in loaders:
        if isinstance(loader, WorkerLoader):
            end_workers(loader)


def _train_loader(index: DatasetIndex, workers: int, device: torch.device, on_device: bool) -> OrderedLoader:
    cache = open_cache(index, SIZE, True, "disk") if on_device else None
    dataset = DetectionDataset(index, SIZE, 16, True, cache)
    return train_loader(dataset, TrainSampler(dataset, BATCH, seed=5), BATCH, workers, device, on_device)


@pytest.mark.parametrize(("workers", "on_device"), [(0, False), (2, False), (0, True)])
def test_on_a_cpu(index: DatasetIndex, made: list[OrderedLoader], workers: int, on_device: bool) -> None:
    loader = _train_loader(index, workers, CPU, on_device)
    made.append(loader)
    assert type(loader) is (DeviceLoader if on_device else WorkerLoader)
    assert loader.workers == workers
    for epoch in (0, 3):
        loader.sampler.set_epoch(epoch)
        assert_epoch(list(loader), index, epoch)


def test_on_a_gpu_batches_are_copied_from_locked_slots(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[Slots] = []
    monkeypatch.setattr(Slots, "pin", lambda slots: locked.append(slots))
    loader = _train_loader(index, 3, GPU, on_device=False)
    assert isinstance(loader, WorkerLoader) and locked == [loader.slots]
    assert (loader.device, loader.workers, len(loader)) == (GPU, 3, 3)
    assert_copies(loader, monkeypatch)


def test_on_a_gpu_images_that_live_there_need_no_slots(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_loader, "pixels_on", lambda device, cache: torch.empty(0))
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: tensor)
    loader = _train_loader(index, 0, GPU, on_device=True)
    assert isinstance(loader, DeviceLoader) and loader.device == GPU
    assert_copies(loader, monkeypatch)


def assert_copies(loader: OrderedLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[tuple[object, torch.device]] = []
    monkeypatch.setattr(
        ordered, "copy_ahead", lambda batches, device: copied.append((batches, device)) or iter(())
    )
    monkeypatch.setattr(type(loader), "_batches", lambda self: "batches")
    assert list(loader) == []
    assert copied == [("batches", GPU)]


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
