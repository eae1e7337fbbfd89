"""Callbacks that let a run diverge at a certain batch, and that leave batches out from the start."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from yolo_lightning.runs.divergence import Divergence


class Poison(Callback):
    """Spoils batches each time that they are trained.

    Args:
        kind: images (one pixel is NaN), labels (one is infinite) or step (a huge learning rate).
        places: epoch and batch in it, from 0, of each.
    """

    def __init__(self, kind: str, places: list[list[int]]) -> None:
        self.kind = kind
        self.places = [tuple(place) for place in places]
        self.place = -1, -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.on_augmented = self._spoil  # type: ignore[assignment]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.place = trainer.current_epoch, batch_idx

    def _spoil(self, images: Tensor, targets: Tensor, mask: Tensor) -> None:
        if self.place in self.places and self.kind == "images":
            images[1, 0, 5, 5] = math.nan
        if self.place in self.places and self.kind == "labels":
            targets[1, 0, 3], mask[1, 0] = math.inf, True

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if self.place in self.places and self.kind == "step":
            for group in optimizer.param_groups:
                group["lr"] = 1e9


class LeaveOut(Callback):
    """Leaves out batches, each an epoch and a batch in it, from the start of the run."""

    def __init__(self, places: list[list[int]]) -> None:
        self.places = {(epoch, batch) for epoch, batch in places}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Divergence):
                callback.left_out |= self.places
