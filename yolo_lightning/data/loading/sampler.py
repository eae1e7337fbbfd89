"""Samplers for training and evaluation: seeded, split among processes, unchanged by a resume.

Both are torch ``DistributedSampler``s, even for one process. Your own Trainer needs
``use_distributed_sampler=False``, because Lightning does not look into batch samplers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DistributedSampler, SequentialSampler


def world(world_size: int | None = None, rank: int | None = None) -> tuple[int, int]:
    """World size and rank: as given, of the process group, or of a single process."""
    if world_size is not None and rank is not None:
        return world_size, rank
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size(), torch.distributed.get_rank()
    return 1, 0


class TrainSampler(DistributedSampler[int]):
    """A new order in each epoch, with every batch full on every rank.

    The order is a function of (seed, epoch) alone. It wraps around until all ranks have the same number of
    full batches: shapes stay fixed and no image is left out. Batch k of all ranks together is batch k of
    one process with the joint batch size.

    An interrupted epoch continues where it stopped (:meth:`resume`), even with other numbers of ranks or
    batch sizes: the images that all ranks together have seen are the start of the order.

    Args:
        dataset: The I images.
        batch_size: Images of a batch on one rank.
        world_size: Number of processes; that of torch.distributed if None, like ``rank``.
        same_order: Give every epoch the order of the first.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        seed: int = 0,
        world_size: int | None = None,
        rank: int | None = None,
        same_order: bool = False,
    ) -> None:
        world_size, rank = world(world_size, rank)
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self.images = len(dataset)
        self.same_order = same_order
        self.batch_size = batch_size
        self.num_samples = self._batches(self.images) * batch_size
        self.total_size = self.num_samples * world_size
        self._resumed: tuple[int, int] | None = None

    def _batches(self, images: int) -> int:
        """Batches of a rank if all ranks together take ``images``; the last batch is filled up."""
        return -(-images // (self.num_replicas * self.batch_size))

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.epoch))

    def resume(self, epoch: int, seen: int) -> None:
        """Begin an epoch where a stopped run left it: after ``seen`` images of all ranks together."""
        self._resumed = epoch, seen

    def seen(self, epoch: int) -> int:
        """Images of an epoch, over all ranks, before the place where it begins in this run."""
        return self._resumed[1] if self._resumed and self._resumed[0] == epoch else 0

    def begins_at(self, epoch: int) -> int:
        """First batch of an epoch: 0 unless the epoch is resumed."""
        return self._batches(self.images) - self._batches(self.images - self.seen(epoch))

    def order(self, epoch: int, before: int = 0) -> list[int]:
        """Positions of this rank's images in an epoch, enough to fill its batches.

        ``before`` batches from before the begin of a resumed epoch are included, at most all.
        """
        # Torch's seed + epoch would give seed 0 in epoch 1 the order of seed 1 in epoch 0.
        sequence = np.random.SeedSequence((self.seed, 0 if self.same_order else epoch))
        generator = torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0]) >> 1)
        order = torch.randperm(self.images, generator=generator)
        seen, joined = self.seen(epoch), self.batch_size * self.num_replicas
        first = seen - min(before, seen // joined) * joined
        stop = seen + self._batches(self.images - seen) * joined
        positions = torch.arange(first, stop)[self.rank :: self.num_replicas]
        own: list[int] = order[positions % self.images].tolist()
        return own


class EvalSampler(DistributedSampler[int]):
    """Every image once, images of one shape together; rank r of w takes every w-th from r on.

    Ranks may differ by one image: repeating one to make them equal would count it twice.

    Args:
        dataset: The I images, with ``canvases`` int64 (I, 2), height and width in px.
        world_size: Number of processes; that of torch.distributed if None, like ``rank``.
    """

    def __init__(self, dataset: Any, world_size: int | None = None, rank: int | None = None) -> None:
        world_size, rank = world(world_size, rank)
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=False)
        order = np.lexsort((dataset.canvases[:, 1], dataset.canvases[:, 0]))  # stable
        self.positions: list[int] = order[rank::world_size].tolist()
        self.num_samples = len(self.positions)
        self.total_size = len(dataset)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)


class SameShapeBatchSampler(BatchSampler):
    """Batches of images of one shape, so that no image is padded to the size of another.

    Args:
        sampler: An ``EvalSampler``, or the ``SequentialSampler`` by which Lightning replaces it to predict.
        batch_size: Images of a batch; the last batch of each shape may have fewer.
        drop_last: Must be False; Lightning passes it when it re-creates batch samplers.
    """

    def __init__(
        self, sampler: EvalSampler | SequentialSampler, batch_size: int, drop_last: bool = False
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)
        dataset: Any = sampler.dataset if isinstance(sampler, EvalSampler) else sampler.data_source
        shapes = [tuple(shape) for shape in dataset.canvases.tolist()]
        self.batches: list[list[int]] = []
        for _, group in groupby(sorted(sampler, key=shapes.__getitem__), key=shapes.__getitem__):
            images = list(group)
            self.batches += [images[i : i + batch_size] for i in range(0, len(images), batch_size)]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)
