"""Training loader whose workers write batches into shared memory, epoch after epoch without a pause."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from time import perf_counter_ns
from typing import NamedTuple

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, default_convert

from ...system.cores import usable_cores
from ...system.memory import keep_freed_memory
from ..batch import Batch
from ..images import waiting
from ..images.waiting import WorkerLost, end_workers, start_workers, wait, workers_of
from .dataset import DetectionDataset
from .ordered import OrderedLoader
from .sampler import TrainSampler
from .shared_slots import Slots

PREFETCH_BATCHES = 2  # batches that each worker makes ahead
RESTARTS = 3  # times that lost workers are replaced
_HELD_BATCHES = 3  # slots beyond those: the batch in use, the next one, and one that is being copied


Request = tuple[int, int, Sequence[int]]
"""A batch for a worker to make: its slot, its epoch, and the positions of its images."""


class Filled(NamedTuple):
    """A worker's answer; times in ns, summed over threads."""

    slot: int
    read_ns: int  # time of reading files
    total_ns: int  # time of making samples, reading included


class SlotWriter(Dataset[Filled]):
    """Makes whole batches: in a worker process, or with some threads in the training process."""

    def __init__(self, dataset: DetectionDataset, slots: Slots, threads: int = 0) -> None:
        self.dataset = dataset
        self.slots = slots
        self.pool = ThreadPool(threads) if threads else None
        if self.pool:
            weakref.finalize(self, self.pool.terminate)

    def __getitems__(self, request: Request) -> Filled:
        slot, epoch, positions = request
        images, *fields = self.slots.arrays(slot).values()

        def fill(row: int) -> tuple[int, int]:
            before = perf_counter_ns()
            sample, read_ns = self.dataset.training_sample(positions[row], epoch, images[row])
            for array, value in zip(fields, sample[1:], strict=False):  # there is no truth in training
                array[row] = value
            return read_ns, perf_counter_ns() - before

        rows = range(len(positions))
        if self.pool:
            filled = self.pool.map_async(fill, rows, chunksize=1)
            times = wait(partial(filled.get, waiting.POLL_S), self.dataset.faults)
        else:
            times = [fill(row) for row in rows]
        return Filled(slot, *(sum(column) for column in zip(*times, strict=True)))


class Requests:
    """Endless batches to make, epoch after epoch; the batch sampler of a ``DataLoader``.

    With weights, which a validation changes, they end with the epoch.

    It holds no reference to its loader: in a reference cycle, the workers would outlive the loader until
    the garbage collector runs.

    Attributes:
        first: Epoch of the next iteration's first batch, and number of that batch among the epoch's.
        issued: Slots that workers may be writing.
    """

    def __init__(self, sampler: TrainSampler, slots: Slots) -> None:
        self.sampler = sampler
        self.slots = slots
        self.first = (0, 0)
        self.issued: set[int] = set()

    def __len__(self) -> int:
        return len(self.sampler) // self.sampler.batch_size  # of one epoch; iteration does not stop there

    def __iter__(self) -> Iterator[Request]:
        # Runs on the first request, when the workers have finished those of an earlier iteration.
        self.slots.free.extend(self.issued)
        self.issued.clear()
        size = self.sampler.batch_size
        first_epoch, first_batch = self.first
        for epoch in itertools.count(first_epoch) if self.sampler.weights is None else [first_epoch]:
            order = self.sampler.order(epoch)
            for begin in range(first_batch * size if epoch == first_epoch else 0, len(order), size):
                slot = self.slots.free.popleft()
                self.issued.add(slot)
                yield slot, epoch, order[begin : begin + size]


class WorkerLoader(OrderedLoader):
    """Batches of images of one size, made by worker processes; each iteration is the sampler's epoch.

    Workers begin the next epoch while the last batches of one are used, validated and saved. They
    return a slot number; the pixels are in shared memory already, and a batch is a view of them (see
    ``Slots.lend``). If a worker is killed, new ones make its batch again.

    Args:
        workers: Processes that make batches; 0 makes them in this process, on request.
        threads: Threads without workers; one for each usable core if left out.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        sampler: TrainSampler,
        workers: int,
        device: torch.device,
        threads: int | None = None,
    ) -> None:
        super().__init__(dataset, sampler, device)
        self.workers = workers
        count = workers * PREFETCH_BATCHES + _HELD_BATCHES
        self.slots = Slots(count, self.batch_size, dataset.image_size, dataset.capacity)
        if device.type == "cuda":
            self.slots.pin()
        self._writer = SlotWriter(dataset, self.slots, 0 if workers else threads or usable_cores())
        self._requests = Requests(sampler, self.slots)
        self._results: Iterator[Filled] = iter(())
        self._at: tuple[int, int] | None = None  # epoch and batch that ``_results`` gives next
        self._iteration = self._losses = 0
        self._read_ns = self._total_ns = 0
        self._loader = self._make_loader() if workers else None

    def _make_loader(self) -> DataLoader[Filled]:
        """A ``DataLoader`` whose workers start with its first iteration."""
        return DataLoader(
            self._writer,
            batch_sampler=self._requests,  # type: ignore[arg-type]  # endless, of Requests
            num_workers=self.workers,
            collate_fn=default_convert,  # leaves numbers as they are
            prefetch_factor=PREFETCH_BATCHES,
            timeout=waiting.POLL_S,
            persistent_workers=True,
            worker_init_fn=prepare_worker,
            # Forked workers start in 0.1 s, spawned ones in 4.5 s, and only forked ones see anonymous memory.
            multiprocessing_context="fork" if sys.platform == "linux" else None,
        )

    @property
    def read_fraction(self) -> float:
        return self._read_ns / self._total_ns if self._total_ns else float("nan")

    def _batches(self) -> Iterator[Batch]:
        epoch, batches = self._begin()
        if self._at != (epoch, 0) or self.sampler.weights is not None:
            self._start(epoch, 0)
        self._iteration += 1
        own = self._iteration
        for number in range(1, batches + 1):
            if own != self._iteration:
                raise RuntimeError("a newer iteration over this loader has taken over its workers")
            self._at = None  # stays so after an error, and the next iteration starts over
            filled = self._take(epoch, number - 1)
            self._requests.issued.discard(filled.slot)
            self._read_ns += filled.read_ns
            self._total_ns += filled.total_ns
            # Set before the batch is handed out, because the generator may not be resumed after the last.
            self._at = (epoch, number) if number < batches else (epoch + 1, 0)
            self._give()
            yield self.slots.lend(filled.slot)

    def _start(self, epoch: int, batch: int) -> None:
        """Begin to make batches at a place."""
        self._requests.first = epoch, batch
        if self._loader is None:
            self._results = map(self._writer.__getitems__, iter(self._requests))
        else:
            self._results = start_workers(self._loader, self._loader.__iter__, self._dataset.faults)

    def _take(self, epoch: int, batch: int) -> Filled:
        """Take the batch of a place from the workers; if one is lost, from new ones."""
        faults = self._dataset.faults
        while True:
            try:
                return wait(self._results.__next__, faults, workers_of(self._results))
            except WorkerLost as lost:
                self._losses += 1
                if self._losses > RESTARTS:
                    raise
                faults.announce(f"{str(lost).rpartition('; ')[0]}; new workers make its batch again")
                self.close()
                self._start(epoch, batch)

    def close(self) -> None:
        """Stop the workers; another iteration starts new ones."""
        workers = workers_of(self._results)
        self._results = iter(())
        end_workers(workers)
        self._dataset.faults.forget_readings()
        self._at = None
        self._loader = self._make_loader() if self.workers else None


def _obey_parent() -> None:
    """Exit at a SIGTERM from the training process, but not at one sent to all processes of a job."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def prepare_worker(worker_id: int) -> None:
    """Set up a worker process: a process group of its own, one thread, and memory kept for the next image.

    Ctrl-C and clusters often signal the whole process group of a run to stop it, but its workers must
    live until the run's last batch. Workers are the parallelism; threads within them would compete for
    the same cores. By default glibc returns the memory of a decoded image to the system, and the next
    image pays for a page fault every 4 KiB: 715 faults at 640 px, up to twice the time of decoding.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, daemon=True).start()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_freed_memory()
