"""The clock of our training: a callback beside those of ``fit``."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from .epochs import EpochTimer


class EpochClock(Callback):
    """Takes the time from the start of each epoch to the end of its last training batch.

    Attributes:
        timer: of the newest run in this process.
        images: of its training split.
    """

    timer = EpochTimer()
    images = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        EpochClock.timer = EpochTimer()
        EpochClock.images = len(trainer.datamodule.index("train"))  # type: ignore[attr-defined]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.timer.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch:  # validation and saving come between this and the epoch's end
            self.timer.stop()
