from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tests.data.loading.test_worker_loader import (
    BATCH,
    SIZE,
    assert_epoch,
    assert_same,
    end_workers,
    expected,
    write_index,
)
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.batch import Batch
from yolo_lightning.data.images.cache import open_cache
from yolo_lightning.data.loading import ordered
from yolo_lightning.data.loading.dataset import DetectionDataset
from yolo_lightning.data.loading.ordered import DeviceLoader, OrderedLoader, copy_ahead
from yolo_lightning.data.loading.sampler import TrainSampler
from yolo_lightning.data.loading.shared_slots import Slots
from yolo_lightning.data.loading.worker_loader import WorkerLoader

CPU, GPU, META = torch.device("cpu"), torch.device("cuda", 0), torch.device("meta")
"""The last takes copies without having memory; it stands for a GPU."""


class Source:
    """Lends the slots of a large ring, each batch filled with its number."""

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.slots = Slots(20, batch_size=2, image_size=(8, 8), capacity=16)

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.batches):
            slot = self.slots.free.popleft()
            for array in self.slots.arrays(slot).values():
                array[:] = number
            yield self.slots.lend(slot)

    def lent(self) -> list[int]:
        return sorted(set(range(20)) - set(self.slots.free))


class Event:
    """The end of a copy, which comes when the test says so, or when it is waited for."""

    made: list[Event]

    def __init__(self) -> None:
        self.done = self.waited_for = False
        self.stream: object = None
        Event.made.append(self)

    def record(self, stream: object) -> None:
        assert self.stream is None
        self.stream = stream

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        self.done = self.waited_for = True


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What happens on the fake device, in order."""
    lines: list[object] = []

    @contextmanager
    def on(stream: object) -> Iterator[None]:
        lines.append(f"begin on {stream}")
        yield
        lines.append(f"end on {stream}")

    Event.made = []
    monkeypatch.setattr(ordered, "side_stream", lambda device: f"side of {device}")
    monkeypatch.setattr(ordered, "hand_over", lambda batch, stream: lines.append((batch, stream)))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", on)
    return lines


def test_a_host_batch_is_kept_until_its_copy_is_done(told: list[object]) -> None:
    source = Source(6)
    batches = copy_ahead(iter(source), META)
    next(batches)
    assert source.lent() == [0]
    next(batches)
    next(batches)
    assert source.lent() == [0, 1, 2]  # nothing is done yet
    Event.made[1].done = True  # copies end in their order; this says nothing of the first
    next(batches)
    assert 0 in source.lent() and {2, 3} <= set(source.lent())
    Event.made[0].done = True
    next(batches)
    assert source.lent() == [2, 3, 4]
    for event in Event.made[2:4]:
        event.done = True
    next(batches)
    assert source.lent() == [4, 5]
    assert not any(event.waited_for for event in Event.made)


def test_at_the_end_what_is_still_copied_is_waited_for(told: list[object]) -> None:
    source = Source(5)
    batches = copy_ahead(iter(source), META)
    next(batches)
    Event.made[0].done = True
    assert len(list(batches)) == 4
    assert [event.waited_for for event in Event.made] == [False, True, True, True, True]
    assert source.lent() == []


def test_an_epoch_that_is_broken_off_waits_too(told: list[object]) -> None:
    source = Source(5)
    batches = copy_ahead(iter(source), META)
    next(batches)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert [event.waited_for for event in Event.made] == [True, True]
    assert source.lent() == []


def test_copies_are_made_beside_and_handed_over(told: list[object]) -> None:
    source = Source(2)
    found = list(copy_ahead(iter(source), META))
    side = "side of meta"
    assert [event.stream for event in Event.made] == [side, side]
    # The last two: looking for a third batch.
    assert told[0::3] == [f"begin on {side}"] * 3 and told[1::3] == [f"end on {side}"] * 3
    for batch, handed in zip(found, told[2::3], strict=True):
        assert handed[0] == batch[:-1] and handed[1] == side  # type: ignore[index]
        assert all(tensor.device == META for tensor in batch[:-1])
        assert batch.images.shape == (2, 3, 8, 8)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_an_error_of_the_loader_comes_through(told: list[object]) -> None:
    class Broken(Source):
        def __iter__(self) -> Iterator[Batch]:
            yield next(super().__iter__())
            raise ValueError("broken")

    source = Broken(3)
    batches = copy_ahead(iter(source), META)
    next(batches)
    with pytest.raises(ValueError, match="broken"):
        next(batches)
    assert [event.waited_for for event in Event.made] == [True]


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
    sampler = TrainSampler(dataset, BATCH, seed=5)
    if on_device:
        return DeviceLoader(dataset, sampler, device)
    return WorkerLoader(dataset, sampler, workers, device)


@pytest.mark.parametrize(("workers", "on_device"), [(0, False), (2, False), (0, True)])
def test_any_loader_gives_the_epoch_on_a_cpu(
    index: DatasetIndex, made: list[OrderedLoader], workers: int, on_device: bool
) -> None:
    loader = _train_loader(index, workers, CPU, on_device)
    made.append(loader)
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
    monkeypatch.setattr(ordered, "pixels_on", lambda device, cache: torch.empty(0))
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: tensor)
    loader = _train_loader(index, 0, GPU, on_device=True)
    assert isinstance(loader, DeviceLoader) and loader.device == GPU
    assert_copies(loader, monkeypatch)


def assert_copies(loader: OrderedLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[tuple[object, torch.device]] = []
    monkeypatch.setattr(
        ordered, "copy_ahead", lambda batches, device, _: copied.append((batches, device)) or iter(())
    )
    monkeypatch.setattr(type(loader), "_batches", lambda self: "batches")
    assert list(loader) == []
    assert copied == [("batches", GPU)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("workers", [0, 2])
def test_on_a_gpu_batches_arrive_whole_while_it_is_busy(
    tmp_path_factory: pytest.TempPathFactory, workers: int
) -> None:
    device = torch.device("cuda", 0)
    index = write_index(tmp_path_factory.mktemp("feed"))
    dataset = DetectionDataset(index, SIZE, 16, True)
    sampler = TrainSampler(dataset, BATCH, seed=5)
    loader = WorkerLoader(dataset, sampler, workers, device)
    assert loader.slots.is_pinned
    matrix = torch.randn(4096, 4096, device=device)
    try:
        for epoch in range(4):
            sampler.set_epoch(epoch)
            kept = []
            for batch in loader:
                with torch.cuda.stream(ordered.side_stream(device)):
                    matrix @ matrix  # the next copy comes late
                assert all(tensor.device == device for tensor in batch[:-1])
                kept.append(batch.map(torch.clone))
            for found, reference in zip(kept, expected(index, epoch), strict=True):
                assert_same(found.map(torch.Tensor.cpu), reference)
        gc.collect()
        assert len(loader.slots.free) + len(loader._requests.issued) == loader.slots.count
    finally:
        end_workers(loader)
