"""Which images come when: seeded, divided among processes, the same after a resume.

Both are torch ``DistributedSampler``s, also for one process. A Trainer of your own needs
``use_distributed_sampler=False``, because Lightning does not look into batch samplers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import BatchSampler, Dataset, DistributedSampler, SequentialSampler

from ...errors import InputError


def _place(world_size: int | None, rank: int | None) -> tuple[int, int]:
    """World size and rank as given, or those of the process group, or of a process alone."""
    if world_size is not None and rank is not None:
        return world_size, rank
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size(), torch.distributed.get_rank()
    return 1, 0


class TrainSampler(DistributedSampler[int]):
    """A new order each epoch, every batch full on every rank.

    The order is a function of (seed, epoch) alone. At its end it starts over, until all ranks have
    the same number of full batches: shapes stay fixed and no image is left out. Batch k of all
    ranks together is the batch k that one process with the joined batch size would see.

    An epoch that a stopped run has begun goes on where it was (:meth:`resume`), with another number
    of ranks or another batch size too: what all ranks together have seen is the start of the order.

    Args:
        dataset: The I images.
        batch_size: Images of a batch on one rank.
        seed: Of the order.
        world_size: Number of processes; asked of torch.distributed when None.
        rank: Of this process.
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
        world_size, rank = _place(world_size, rank)
        assert isinstance(dataset, Dataset) or hasattr(dataset, "__len__")
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self.images = len(dataset)
        self.same_order = same_order
        self.batch_size = batch_size
        self.num_samples = self._batches(self.images) * batch_size
        self.total_size = self.num_samples * world_size
        self._resumed: tuple[int, int] | None = None

    def _batches(self, images: int) -> int:
        """Batches of a rank that take ``images`` of all ranks, the last one filled up."""
        return -(-images // (self.num_replicas * self.batch_size))

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.epoch))

    def resume(self, epoch: int, seen: int) -> None:
        """Begin one epoch where a stopped run was.

        Args:
            epoch: The epoch, from 0.
            seen: Images of it that all ranks together have trained on; all, if only its validation is left.

        Raises:
            InputError: The epoch has not so many images; the data set is another one.
        """
        if not 0 <= seen <= self.images:
            raise InputError(
                f"the checkpoint was written after {seen} images of an epoch, but the data has "
                f"{self.images}; resume with the data set that the run was started on"
            )
        self._resumed = epoch, seen

    def seen(self, epoch: int) -> int:
        """Images of an epoch, of all ranks together, before the place where it begins here."""
        return self._resumed[1] if self._resumed and self._resumed[0] == epoch else 0

    def begins_at(self, epoch: int) -> int:
        """The batch that an epoch begins with: 0, or the one from which a resumed epoch has enough left."""
        return self._batches(self.images) - self._batches(self.images - self.seen(epoch))

    def order(self, epoch: int, before: int = 0) -> list[int]:
        """Positions of this rank's images in an epoch, as many as fill its batches.

        Args:
            epoch: From 0.
            before: Batches to go back from where a resumed epoch begins, in which they come first;
                no further than to its start.
        """
        # seed + epoch, as torch has it, would give seed 0 in epoch 1 what seed 1 has in epoch 0.
        mixed = np.random.SeedSequence((self.seed, 0 if self.same_order else epoch)).generate_state(
            1, np.uint64
        )[0]
        generator = torch.Generator().manual_seed(int(mixed) >> 1)
        order = torch.randperm(self.images, generator=generator)
        seen, joined = self.seen(epoch), self.batch_size * self.num_replicas
        first = seen - min(before, seen // joined) * joined
        stop = seen + self._batches(self.images - seen) * joined
        positions = torch.arange(first, stop)[self.rank :: self.num_replicas]
        taken: list[int] = order[positions % self.images].tolist()
        return taken


class CanvasSizes(Protocol):
    """A data set whose images become rectangles of several sizes."""

    canvases: npt.NDArray[np.int64]
    """(I, 2) height and width in px."""

    def __len__(self) -> int: ...


class EvalSampler(DistributedSampler[int]):
    """Every image once, those of one shape together: of that order, rank r of w takes r, r + w, ...

    Ranks may differ by one image: nothing is repeated to make them equal, which would count twice.

    Args:
        dataset: The I images.
        world_size: Number of processes; asked of torch.distributed when None.
        rank: Of this process.
    """

    def __init__(self, dataset: CanvasSizes, world_size: int | None = None, rank: int | None = None) -> None:
        world_size, rank = _place(world_size, rank)
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=False)  # type: ignore[arg-type]
        order = np.lexsort((dataset.canvases[:, 1], dataset.canvases[:, 0]))  # stable: then as in the index
        self.positions: list[int] = order[rank::world_size].tolist()
        self.num_samples = len(self.positions)
        self.total_size = len(dataset)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)


class SameShapeBatchSampler(BatchSampler):
    """Batches of images of one shape, so that what an image becomes does not depend on its neighbours.

    Args:
        sampler: Gives the images: an ``EvalSampler``, or what Lightning puts in its place when it
            makes the sampler anew to predict, torch's ``SequentialSampler``.
        batch_size: Images of a batch; the last batch of each shape may have fewer.
        drop_last: Must be False; in the signature because Lightning makes batch samplers anew.
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
