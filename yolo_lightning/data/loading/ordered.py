"""What the loaders of training images share: an order, and a place in it that a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import InputError
from ..batch import Batch
from .dataset import DetectionDataset, collate
from .sampler import TrainSampler


class OrderedLoader:
    """Full batches in the order of a sampler; goes on within an epoch where a stopped run was.

    With ``state_dict`` and ``load_state_dict`` it is what Lightning calls a stateful loader: the
    place goes into every checkpoint, and comes back before the first batch of a run that resumes
    within an epoch.

    Args:
        dataset: The training images.
        sampler: Their order; Lightning tells it the epoch.
        batch_size: B.
    """

    def __init__(self, dataset: DetectionDataset, sampler: TrainSampler, batch_size: int) -> None:
        self._dataset = dataset  # by a public one Lightning would take this for a torch DataLoader
        self.sampler = sampler
        self.batch_size = batch_size
        self._place = (0, 0)
        """Epoch, and how many images of it all ranks have been given."""

    def __len__(self) -> int:
        return self.sampler.num_samples // self.batch_size

    def _begin(self) -> tuple[int, int]:
        """Start on the epoch that the sampler was told: the epoch, and how many batches it gives here."""
        epoch = self.sampler.epoch
        self._place = epoch, self.sampler.seen(epoch)
        return epoch, len(self) - self.sampler.begins_at(epoch)

    def _give(self) -> None:
        """Count a batch that is about to be handed out."""
        epoch, seen = self._place
        self._place = epoch, seen + self.batch_size * self.sampler.num_replicas

    def state_dict(self) -> dict[str, Any]:
        """The epoch, how many of its images all ranks together have been given, and how many there are."""
        return {"epoch": self._place[0], "seen": self._place[1], "images": len(self._dataset)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let that epoch begin behind the images seen; for the number of ranks that there are now.

        Raises:
            InputError: The epoch has another number of images.
        """
        if state_dict["images"] != len(self._dataset):
            raise InputError(
                f"the checkpoint was written within an epoch of {state_dict['images']} images, but the data "
                f"has {len(self._dataset)}; resume with the data set that the run was started on"
            )
        seen = min(state_dict["seen"], state_dict["images"])  # the last batch may have been filled up
        self.sampler.resume(state_dict["epoch"], seen)
        self._place = state_dict["epoch"], seen  # until the first batch, and there may be none left

    def earlier(self, batches: int) -> Iterator[Batch]:
        """The batches that came before the place where a resumed epoch begins, made in this process.

        Args:
            batches: At most so many, the last ones.
        """
        epoch = self.sampler.epoch
        order = self.sampler.order(epoch, before=batches)
        order = order[: len(order) - len(self.sampler.order(epoch))]
        size = self._dataset.image_size
        for begin in range(0, len(order), self.batch_size):
            rows = order[begin : begin + self.batch_size]
            yield collate([self._dataset.sample(i, np.empty((size, size, 3), np.uint8)) for i in rows])
