"""Base class of the training loaders: an order of images, and a place in it that checkpoints keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ...errors import InputError
from ..batch import Batch
from .dataset import DetectionDataset, collate
from .device_feed import copy_ahead
from .sampler import TrainSampler


class OrderedLoader(ABC):
    """Full batches in the order of a sampler, on a device; resumes within an epoch.

    It is what Lightning calls a stateful loader: every checkpoint stores its ``state_dict``, which a run
    that resumes within an epoch loads before the first batch.

    Args:
        dataset: The training images.
        sampler: Their order; Lightning sets its epoch.
        batch_size: B.
        device: Device of the training.
    """

    workers = 0
    """Processes that make batches."""

    def __init__(
        self, dataset: DetectionDataset, sampler: TrainSampler, batch_size: int, device: torch.device
    ) -> None:
        self._dataset = dataset  # private: Lightning takes a loader with ``dataset`` for a torch DataLoader
        self.sampler = sampler
        self.batch_size = batch_size
        self.device = device
        self._place = (0, 0)
        """Epoch, and the number of its images that all ranks together have been given."""

    @property
    def read_fraction(self) -> float:
        """Part of the loader's time that goes into reading files, 0..1; NaN if nothing is known yet."""
        return 0.0

    def __len__(self) -> int:
        return self.sampler.num_samples // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        batches = self._batches()
        return copy_ahead(batches, self.device) if self.device.type == "cuda" else batches

    @abstractmethod
    def _batches(self) -> Iterator[Batch]:
        """The batches of the sampler's epoch, in host memory or on the device."""

    def close(self) -> None:  # noqa: B027  # only WorkerLoader has workers
        """Stop the workers."""

    def _begin(self) -> tuple[int, int]:
        """Begin the sampler's epoch; returns the epoch and how many batches it has here."""
        epoch = self.sampler.epoch
        self._place = epoch, self.sampler.seen(epoch)
        return epoch, len(self) - self.sampler.begins_at(epoch)

    def _give(self) -> None:
        """Count a batch that is about to be handed out."""
        epoch, seen = self._place
        self._place = epoch, seen + self.batch_size * self.sampler.num_replicas

    def state_dict(self) -> dict[str, Any]:
        """The epoch, how many of its images all ranks together have been given, and how many it has."""
        return {"epoch": self._place[0], "seen": self._place[1], "images": len(self._dataset)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Begin the stored epoch after the images seen, for the present number of ranks.

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
        self._place = state_dict["epoch"], seen  # until the first batch, if there is one

    def earlier(self, batches: int) -> Iterator[Batch]:
        """The last ``batches`` batches before the place where a resumed epoch begins, in host memory."""
        epoch = self.sampler.epoch
        order = self.sampler.order(epoch, before=batches)
        order = order[: len(order) - len(self.sampler.order(epoch))]
        size = self._dataset.image_size
        for begin in range(0, len(order), self.batch_size):
            rows = order[begin : begin + self.batch_size]
            yield collate([self._dataset.sample(i, np.empty((size, size, 3), np.uint8)) for i in rows])
