"""The training loader: workers write batches into slots, epoch after epoch without a pause."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter_ns
from typing import NamedTuple

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from ..batch import Batch
from .cores import usable_cores
from .dataset import DetectionDataset
from .sampler import TrainSampler
from .slots import Slots

PREFETCH_BATCHES = 2
"""Batches that each worker makes ahead."""
_HELD_BATCHES = 3
"""Slots beyond those: the batch in use, the one that follows it, and one that is being copied."""


class Request(NamedTuple):
    """What a worker is asked for."""

    slot: int
    positions: Sequence[int]


class Filled(NamedTuple):
    """What it answers."""

    slot: int
    read_ns: int
    """Time in which files were read."""
    total_ns: int
    """Time of all of it."""


class SlotWriter(Dataset[Filled]):
    """Makes whole batches, in a worker process or in the training process.

    Args:
        dataset: The images.
        slots: Where they go.
        threads: Images that are made at once; more than one only in the training process.
    """

    def __init__(self, dataset: DetectionDataset, slots: Slots, threads: int = 1) -> None:
        self.dataset = dataset
        self.slots = slots
        self.pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __getitems__(self, request: Request) -> Filled:
        before, read_before = perf_counter_ns(), self.dataset.read_ns
        arrays = self.slots.arrays(request.slot)

        def fill(row: int) -> None:
            sample = self.dataset.sample(request.positions[row], arrays.images[row])
            arrays.targets[row] = sample.targets
            arrays.count[row] = sample.label_count
            arrays.index[row] = sample.position
            arrays.image_ids[row] = sample.image_id
            arrays.original_sizes[row] = sample.original_size
            arrays.letterbox[row] = sample.letterbox

        rows = range(len(request.positions))
        for _ in self.pool.map(fill, rows) if self.pool else map(fill, rows):
            pass
        return Filled(request.slot, self.dataset.read_ns - read_before, perf_counter_ns() - before)


class TrainLoader:
    """Batches of squares in seeded order; each iteration is the epoch that the sampler was told.

    Workers go on with the next epoch while the last batches of one are used, validated and saved.
    In what they return there is a number; the pixels are in shared memory already, and a batch is a
    view of them (see ``Slots.lend``).

    Args:
        dataset: The training images.
        sampler: Their order.
        batch_size: B.
        workers: Processes that make batches; 0 makes them here, when they are asked for, with a
            thread for each usable core.

    Attributes:
        sampler: Lightning tells it the epoch.
        slots: Where batches are made.
        read_fraction: Of the time in which batches were made, the part that went into reading files.
    """

    def __init__(
        self, dataset: DetectionDataset, sampler: TrainSampler, batch_size: int, workers: int
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.workers = workers
        count = workers * PREFETCH_BATCHES + _HELD_BATCHES
        self.slots = Slots(count, batch_size, dataset.image_size, dataset.capacity)
        self._writer = SlotWriter(dataset, self.slots, 1 if workers else usable_cores())
        self._loader = self._start_workers() if workers else None
        self._results: Iterator[Filled] = iter(())
        self._at: tuple[int, int] | None = None
        """Epoch and batch that ``_results`` gives next."""
        self._first_epoch = 0
        self._issued: set[int] = set()
        self._read_ns = self._total_ns = 0

    def _start_workers(self) -> DataLoader[Filled]:
        return DataLoader(
            self._writer,
            batch_sampler=_Requests(self),  # type: ignore[arg-type]  # endless, of Requests
            num_workers=self.workers,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            prefetch_factor=PREFETCH_BATCHES,
            persistent_workers=True,
            worker_init_fn=prepare_worker,
            # Forked workers start in 0.1 s, spawned ones in 4.5 s, and only those see anonymous memory.
            multiprocessing_context="fork" if sys.platform == "linux" else None,
        )

    def __len__(self) -> int:
        return self.sampler.num_samples // self.batch_size

    @property
    def read_fraction(self) -> float:
        return self._read_ns / self._total_ns if self._total_ns else float("nan")

    def __iter__(self) -> Iterator[Batch]:
        epoch, batches = self.sampler.epoch, len(self)
        if self._at != (epoch, 0):
            self._first_epoch = epoch
            self._results = iter(self._loader or map(self._writer.__getitems__, self.requests()))
        for number in range(1, batches + 1):
            filled = next(self._results)
            self._issued.discard(filled.slot)
            self._read_ns += filled.read_ns
            self._total_ns += filled.total_ns
            # Before the batch is handed out, because nobody need ask for more after the last.
            self._at = (epoch, number) if number < batches else (epoch + 1, 0)
            yield self.slots.lend(filled.slot)

    def requests(self) -> Iterator[Request]:
        """Batches to make, from the epoch that was asked for on and without end."""
        self.slots.free.extend(self._issued)  # what was under way when an epoch was broken off
        self._issued.clear()
        epoch = self._first_epoch
        while True:
            order = self.sampler.order(epoch)
            for begin in range(0, len(order), self.batch_size):
                slot = self.slots.free.popleft()
                self._issued.add(slot)
                yield Request(slot, order[begin : begin + self.batch_size])
            epoch += 1


class _Requests:
    """The requests of a loader as what ``DataLoader`` takes for a batch sampler."""

    def __init__(self, loader: TrainLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)  # of an epoch; nothing stops there

    def __iter__(self) -> Iterator[Request]:
        return self.loader.requests()


def _as_it_is(filled: Filled) -> Filled:
    return filled


def prepare_worker(worker_id: int) -> None:
    """Set up a worker process: one thread, and memory that is kept for the next image.

    Workers are the parallelism; threads within them would fight over the same cores. By default
    glibc gives the memory of a decoded image back to the system, and the next image pays for a page
    fault every 4 KiB: 715 faults an image at 640 px, up to twice the time of decoding it.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        mallopt(trim_threshold, 1 << 30)
        # Older glibc refuse more than 32 MiB.
        _ = mallopt(mmap_threshold, 1 << 28) or mallopt(mmap_threshold, 1 << 25)
