from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.tiny_data import annotation, image, write_coco
from yolo_lightning.data.annotations.coco import CocoReader
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.batch import Batch
from yolo_lightning.data.images.cache import open_cache
from yolo_lightning.data.loading import worker_loader as loader_room
from yolo_lightning.data.loading.dataset import DetectionDataset, collate
from yolo_lightning.data.loading.sampler import TrainSampler
from yolo_lightning.data.loading.worker_loader import PREFETCH_BATCHES, WorkerLoader

IMAGES, BATCH, SIZE = 11, 4, (32, 48)
BATCHES = 3
"""Of an epoch: 11 images fill two batches and most of a third."""


def write_index(root: Path) -> DatasetIndex:
    """Eleven images: PNGs, and JPEGs that are decoded whole, at half and at a quarter of their size."""
    sizes = [(40, 60), (50, 30), (20, 30), (96, 64), (61, 83), (128, 100)]
    images, annotations = [], []
    for i in range(IMAGES):
        height, width = sizes[i % len(sizes)]
        images.append(image(i + 1, f"{i}.{'png' if i % 3 == 0 else 'jpg'}", height, width))
        annotations += [annotation(10 * i + k, i + 1, 1, [k, 2, 9, 8 + i]) for k in range(i % 4)]
    document = {
        "images": images,
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": annotations,
    }
    return CocoReader(write_coco(root, document), "train").read()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    return write_index(tmp_path_factory.mktemp("loader"))


MakeLoader = Callable[..., WorkerLoader]


@contextmanager
def loaders(index: DatasetIndex) -> Iterator[MakeLoader]:
    """A function that makes loaders, whose workers are ended at the end."""
    made: list[WorkerLoader] = []

    def make_loader(
        workers: int, cache: str = "none", kind: type[DetectionDataset] = DetectionDataset
    ) -> WorkerLoader:
        file = open_cache(index, SIZE, True, "disk") if cache == "disk" else None
        dataset = kind(index, SIZE, 16, True, file)
        made.append(WorkerLoader(dataset, TrainSampler(dataset, BATCH, seed=5), workers, torch.device("cpu")))
        return made[-1]

    try:
        yield make_loader
    finally:
        for loader in made:
            end_workers(loader)


def end_workers(loader: WorkerLoader) -> None:
    """End them at once; left to the garbage collector, they may take seconds."""
    if loader._loader is not None and loader._loader._iterator is not None:
        loader._loader._iterator._shutdown_workers()


@pytest.fixture
def make(index: DatasetIndex) -> Iterator[MakeLoader]:
    with loaders(index) as make_loader:
        yield make_loader


def expected(index: DatasetIndex, epoch: int, seed: int = 5) -> list[Batch]:
    """The batches of an epoch, made one image at a time."""
    dataset = DetectionDataset(index, SIZE, 16, True)
    order = TrainSampler(dataset, BATCH, seed).order(epoch)
    assert len(order) == BATCHES * BATCH
    return [collate([dataset[i] for i in order[begin : begin + BATCH]]) for begin in range(0, 12, BATCH)]


def assert_same(found: Batch, batch: Batch) -> None:
    for name, a, b in zip(batch._fields[:-1], found[:-1], batch[:-1], strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b), name
    assert found.images.is_contiguous(memory_format=torch.channels_last)


def assert_epoch(found: list[Batch], index: DatasetIndex, epoch: int) -> None:
    for a, b in zip(found, expected(index, epoch), strict=True):
        assert_same(a, b)


def held_slots(loader: WorkerLoader) -> int:
    """Slots that are neither free nor with the workers; each slot is in one place."""
    gc.collect()
    free, issued = list(loader.slots.free), set(loader._requests.issued)
    assert len(set(free)) == len(free) and not issued & set(free)
    return loader.slots.count - len(free) - len(issued)


@pytest.mark.parametrize("cache", ["none", "disk"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_those_made_one_image_at_a_time(
    index: DatasetIndex, make: MakeLoader, workers: int, cache: str
) -> None:
    loader = make(workers, cache)
    assert len(loader) == BATCHES
    for epoch in range(4):
        loader.sampler.set_epoch(epoch)
        references = expected(index, epoch)
        for number, batch in enumerate(loader):
            assert_same(batch, references[number])
        assert number == BATCHES - 1
    del batch
    assert held_slots(loader) == 0


def test_threads_of_the_main_process_make_the_same(
    index: DatasetIndex, make: MakeLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_room, "usable_cores", lambda: 3)
    assert_epoch(list(make(0)), index, 0)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_that_are_kept_stay_as_they_are(index: DatasetIndex, make: MakeLoader, workers: int) -> None:
    loader = make(workers)
    kept = []
    for epoch in range(4):
        loader.sampler.set_epoch(epoch)
        kept.append(list(loader))
    for epoch in range(4):
        assert_epoch(kept[epoch], index, epoch)
    kept.clear()
    assert held_slots(loader) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_again_and_epochs_in_any_order(index: DatasetIndex, make: MakeLoader, workers: int) -> None:
    loader = make(workers)
    for epoch in (3, 3, 4, 0, 0, 1, 7):
        loader.sampler.set_epoch(epoch)
        assert_epoch(list(loader), index, epoch)
    assert held_slots(loader) == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_epochs_that_are_broken_off_mix_nothing_up(
    index: DatasetIndex, make: MakeLoader, workers: int
) -> None:
    references = [expected(index, epoch) for epoch in range(3)]
    loader = make(workers)
    kept: list[tuple[Batch, Batch]] = []
    for epoch, taken in ((0, 1), (0, 2), (1, 1), (0, 3), (1, 2), (1, 0), (2, 3), (2, 1), (2, 1), (0, 3)):
        loader.sampler.set_epoch(epoch)
        batches = iter(loader)
        for number in range(taken):
            batch = next(batches)
            assert_same(batch, references[epoch][number])
            if number == 1:
                kept.append((batch, references[epoch][1]))
    for found, reference in kept:
        assert_same(found, reference)
    kept.clear()
    del batch, found, batches
    assert held_slots(loader) == 0


@pytest.mark.timeout(120)
def test_many_restarts(index: DatasetIndex, make: MakeLoader) -> None:
    references = [expected(index, epoch) for epoch in range(5)]
    loader = make(2)
    rng = np.random.default_rng(0)
    kept: list[tuple[Batch, Batch]] = []
    for _ in range(150):
        epoch, taken = int(rng.integers(5)), int(rng.integers(BATCHES + 1))
        loader.sampler.set_epoch(epoch)
        for reference, batch in zip(references[epoch][:taken], loader, strict=False):
            assert_same(batch, reference)
            kept = [*kept[-2:], (batch, reference)]
        for found, reference in kept:
            assert_same(found, reference)
    kept.clear()
    del batch, found
    assert held_slots(loader) == 0
    assert len(loader._requests.issued) == 2 * PREFETCH_BATCHES
    loader.sampler.set_epoch(9)
    assert_epoch(list(loader), index, 9)


def wait_until(holds: Callable[[], bool]) -> None:
    """Poll for 200 s at most."""
    deadline = time.monotonic() + 200
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert holds()


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_begin_the_next_epoch_before_it_is_asked_for(
    index: DatasetIndex, make: MakeLoader, workers: int
) -> None:
    loader = make(workers)
    for epoch in (4, 5):
        loader.sampler.set_epoch(epoch)
        for _ in loader:
            pass
        gc.collect()
        following = expected(index, epoch + 1)[: workers * PREFETCH_BATCHES]

        def made_already() -> bool:
            made = [loader.slots.arrays(slot) for slot in loader._requests.issued]
            return all(
                any(np.array_equal(slot["images"], batch.images.permute(0, 2, 3, 1)) for slot in made)
                for batch in following  # noqa: B023
            )

        wait_until(made_already)


def test_an_older_iteration_does_not_take_the_batches_of_a_newer_one(make: MakeLoader) -> None:
    loader = make(0)
    older = iter(loader)
    next(older)
    newer = iter(loader)
    first = next(newer)
    with pytest.raises(RuntimeError, match="a newer iteration"):
        next(older)
    rest = [batch.index.tolist() for batch in newer]
    order = loader.sampler.order(0)
    assert [first.index.tolist(), *rest] == [order[b : b + BATCH] for b in range(0, len(order), BATCH)]
