"""A callback that lets a run be stopped at a certain batch."""

from __future__ import annotations

import os
import signal
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class SignalAt(Callback):
    """Sends this process a signal in the middle of a batch.

    Args:
        number: Name of the signal.
        epoch: In this epoch, from 0.
        batch: In this batch of it, from 0; -1 in its validation.
        rank: On this rank alone.
    """

    def __init__(self, number: str, epoch: int, batch: int, rank: int = 0) -> None:
        self.number = signal.Signals[number]
        self.place = epoch, batch
        self.rank = rank

    def _send(self, trainer: Trainer, batch: int) -> None:
        if (trainer.current_epoch, batch, trainer.global_rank) == (*self.place, self.rank):
            os.kill(os.getpid(), self.number)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._send(trainer, batch_idx)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._send(trainer, -1)
