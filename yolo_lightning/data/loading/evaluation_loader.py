"""Loader of evaluation and prediction: torch's, which waits with a limit and leaves out unreadable images."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any

import torch
from torch.utils.data import DataLoader

from ...system.cores import usable_cores
from ..batch import Batch
from ..images.waiting import POLL_S, end_workers, start_workers, wait, workers_of
from .dataset import DetectionDataset, Sample


class EvaluationLoader(DataLoader[Sample]):
    """Batches of a ``DetectionDataset`` or a ``PredictionDataset``, with ``timeout`` if there are workers.

    Images that cannot be decoded are left out of the batches of a ``DetectionDataset``. Without workers,
    threads load the images, one for each core: a main thread that reads cannot report that a disk hangs.
    """

    def __iter__(self) -> Any:
        dataset: Any = self.dataset
        for batch in self._from_workers() if self.num_workers else self._from_threads():
            if isinstance(dataset, DetectionDataset):
                dataset.report()
                yield from _readable(batch)
            else:
                yield batch

    def _from_threads(self) -> Iterator[Batch]:
        dataset: Any = self.dataset
        with ThreadPool(usable_cores()) as pool:
            for positions in self.batch_sampler:  # type: ignore[union-attr]
                samples = pool.map_async(dataset.__getitem__, positions, chunksize=1)
                batch = self.collate_fn(wait(partial(samples.get, POLL_S), dataset.faults))
                yield batch.map(torch.Tensor.pin_memory) if self.pin_memory else batch

    def _from_workers(self) -> Iterator[Batch]:
        batches = start_workers(self, super().__iter__, self.dataset.faults)  # type: ignore[attr-defined]
        for _ in range(len(self)):
            yield wait(batches.__next__, self.dataset.faults, workers_of(batches))  # type: ignore[attr-defined]

    def end(self) -> None:
        """End the workers; another iteration starts new ones."""
        workers, self._iterator = workers_of(self._iterator), None
        end_workers(workers)


def _readable(batch: Batch) -> Iterator[Batch]:
    """The batch without images that cannot be decoded, if any is left."""
    readable = batch.original_sizes.any(1)
    if readable.all():
        yield batch
    elif readable.any():
        batch = batch.map(lambda tensor: tensor[readable])
        yield batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))
