from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from tests.data.loading.test_worker_loader import (
    BATCH,
    BATCHES,
    IMAGES,
    SIZE,
    assert_same,
    expected,
    write_index,
)
from yolo_lightning.data.annotations.findings import Finding
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.images.cache import open_cache
from yolo_lightning.data.loading import ordered
from yolo_lightning.data.loading.dataset import DetectionDataset
from yolo_lightning.data.loading.ordered import DeviceLoader, pixels_on
from yolo_lightning.data.loading.sampler import TrainSampler
from yolo_lightning.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    return write_index(tmp_path_factory.mktemp("device"))


def _make(index: DatasetIndex, device: torch.device = CPU, capacity: int = 16) -> DeviceLoader:
    dataset = DetectionDataset(index, SIZE, capacity, True, open_cache(index, SIZE, True, "disk"))
    return DeviceLoader(dataset, TrainSampler(dataset, BATCH, seed=5), device)


def test_batches_are_those_made_one_image_at_a_time(index: DatasetIndex) -> None:
    loader = _make(index)
    assert len(loader) == BATCHES
    for epoch in (0, 1, 1, 5):
        loader.sampler.set_epoch(epoch)
        for found, batch in zip(loader, expected(index, epoch), strict=True):
            assert_same(found, batch)


def test_epochs_do_not_share_what_was_given_out(index: DatasetIndex) -> None:
    loader = _make(index)
    for batch in loader:  # whoever augments in place
        batch.map(lambda tensor: tensor.fill_(9))
    for found, batch in zip(loader, expected(index, 0), strict=True):
        assert_same(found, batch)


def test_a_resumed_epoch_begins_where_it_was(index: DatasetIndex) -> None:
    stopped, whole = _make(index), list(expected(index, 3))
    stopped.sampler.set_epoch(3)
    batches = iter(stopped)
    for _ in range(2):
        next(batches)
    resumed = _make(index)
    resumed.load_state_dict(stopped.state_dict())
    resumed.sampler.set_epoch(3)
    for found, batch in zip(resumed.earlier(7), whole[:2], strict=True):
        assert_same(found, batch)
    for found, batch in zip(resumed, whole[2:], strict=True):
        assert_same(found, batch)
    assert len(resumed) == BATCHES
    resumed.sampler.set_epoch(4)
    assert list(resumed.earlier(7)) == []
    assert len(list(resumed)) == BATCHES


def test_a_place_in_an_epoch_of_other_data_is_refused(index: DatasetIndex) -> None:
    with pytest.raises(
        InputError, match=r"an epoch of 27 images, but the data has 11; resume with the data set"
    ):
        _make(index).load_state_dict({"epoch": 0, "seen": 4, "images": 27})


def test_an_epoch_goes_on_when_other_images_are_left_out(index: DatasetIndex) -> None:
    stopped = _make(index)
    batches = iter(stopped)
    next(batches), next(batches)
    broken = Finding("k", "where", "what", "remedy", str(index.path(3)), is_error=True)
    fewer = _make(index.without([broken]))
    said: list[str] = []
    fewer._dataset.faults.announce = said.append
    fewer.load_state_dict(stopped.state_dict())
    assert [len(batch.index) for batch in fewer] == [BATCH]  # 8 of 11 images were seen, as good as 7 of 10
    assert said[0].startswith("the resumed epoch had 11 images, and now has 10, because others are left out")
    repaired = _make(index)
    repaired.load_state_dict(fewer.state_dict())
    assert list(repaired) == []


def test_an_epoch_of_which_only_the_validation_was_left_gives_no_batch_and_keeps_its_place(
    index: DatasetIndex,
) -> None:
    stopped = _make(index)
    stopped.sampler.set_epoch(3)
    assert len(list(stopped)) == BATCHES
    place = stopped.state_dict()
    assert place["epoch"] == 3 and place["seen"] >= IMAGES
    for _ in range(2):  # left again and again
        resumed = _make(index)
        resumed.load_state_dict(place)
        resumed.sampler.set_epoch(3)
        place = resumed.state_dict()
        assert (place["epoch"], place["seen"]) == (3, IMAGES)
    assert list(resumed) == []
    resumed.sampler.set_epoch(4)
    assert len(list(resumed)) == BATCHES


def test_labels_have_the_capacity_of_the_data_set(index: DatasetIndex) -> None:
    loader = _make(index, capacity=48)
    assert loader.labels.targets.shape == (IMAGES, 48, 5)
    assert loader.labels.index.tolist() == list(range(IMAGES))
    assert {batch.targets.shape for batch in loader} == {(BATCH, 48, 5)}
    # The image of id i + 1 has i % 4 labels.
    assert loader.labels.count.tolist() == [(i - 1) % 4 for i in loader.labels.image_ids.tolist()]


def test_nothing_is_loaded_in_an_epoch(index: DatasetIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = _make(index)
    for name in ("timed_sample", "_draw", "labels"):
        monkeypatch.delattr(DetectionDataset, name)
    assert len(list(loader)) == BATCHES
    assert loader.workers == 0 and loader.read_fraction == 0


def test_the_mapped_file_is_read_without_a_warning_or_a_copy(index: DatasetIndex) -> None:
    cache = open_cache(index, SIZE, True, "disk")
    torch.set_warn_always(True)  # not only the first time in a process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pixels = pixels_on(CPU, cache)
            list(_make(index))
    finally:
        torch.set_warn_always(False)
    assert pixels.shape == (IMAGES, *SIZE, 3) and pixels.dtype == torch.uint8
    assert pixels.data_ptr() == cache.pixels.ctypes.data


@pytest.mark.parametrize("chunk", [1, 4, IMAGES, 100])
def test_a_device_is_filled_in_parts(
    index: DatasetIndex, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered, "_CHUNK_IMAGES", chunk)
    copied: list[int] = []
    to = torch.Tensor.to

    def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        copied.append(len(tensor))
        return to(tensor, device)

    monkeypatch.setattr(torch.Tensor, "to", to_device)
    # A device without memory of its own stands for one with.
    pixels = pixels_on(torch.device("meta"), open_cache(index, SIZE, True, "disk"))
    assert pixels.shape == (IMAGES, *SIZE, 3) and pixels.device.type == "meta"
    assert sum(copied) == IMAGES and max(copied) <= chunk


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_a_gpu(index: DatasetIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered, "_CHUNK_IMAGES", 4)
    loader = _make(index, torch.device("cuda", 0))
    np.testing.assert_array_equal(loader.pixels.cpu().numpy(), open_cache(index, SIZE, True, "disk").pixels)
    for found, batch in zip(loader, expected(index, 0), strict=True):
        assert all(tensor.is_cuda for tensor in found[:-1])
        assert_same(found.map(torch.Tensor.cpu), batch)
