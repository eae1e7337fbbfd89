"""Callbacks that let a run diverge at certain batches, and that leave batches out from its start."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from yolo_lightning.runs.divergence import Divergence


def callback(name: str, **arguments: Any) -> str:
    """The option for one of the callbacks here."""
    given = str(arguments).replace("'", "")
    return f"--trainer.callbacks=[{{class_path: tests.support.diverging.{name}, init_args: {given}}}]"


class Poison(Callback):
    """Spoils batches each time that they are trained.

    Args:
        images: Batches (epoch and number in it, from 0), of which a pixel of an image becomes NaN.
        labels: Batches, of which a label becomes infinite.
        steps: Batches at which an optimizer step has a huge learning rate.
        rate: The huge learning rate.
        rank: Images and labels are spoilt on this rank alone.
        once: Spoil only the first time.
    """

    def __init__(
        self,
        images: list[list[int]] | None = None,
        labels: list[list[int]] | None = None,
        steps: list[list[int]] | None = None,
        rate: float = 1e9,
        rank: int = 0,
        once: bool = False,
    ) -> None:
        given = {"images": images, "labels": labels, "steps": steps}
        self.places = {kind: [tuple(place) for place in places or ()] for kind, places in given.items()}
        self.rate, self.rank, self.once = rate, rank, once
        self.place = -1, -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_rank == self.rank:
            pl_module.on_augmented = self._spoil  # type: ignore[assignment]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.place = trainer.current_epoch, batch_idx

    def _is_here(self, kind: str) -> bool:
        found = self.place in self.places[kind]
        if found and self.once:
            self.places[kind].remove(self.place)
        return found

    def _spoil(self, images: Tensor, targets: Tensor, mask: Tensor) -> None:
        if self._is_here("images"):
            images[-1, 0, 5, 5] = math.nan
        if self._is_here("labels"):
            targets[-1] = torch.tensor([len(images) - 1, 0, math.inf, 8, 16, 16])
            mask[-1] = True

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if self._is_here("steps"):
            for group in optimizer.param_groups:
                group["lr"] = self.rate


class LeaveOut(Callback):
    """Leaves out batches, each an epoch and a number in it, from the start of the run."""

    def __init__(self, places: list[list[int]]) -> None:
        self.places = {(epoch, batch) for epoch, batch in places}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(other, Divergence):
                other.left_out |= self.places
