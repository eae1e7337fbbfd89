"""The clock of our training, as a callback beside those of ``fit``."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from ..clock import EpochClock


class Clock(Callback):
    """Times epochs and ends the run when enough was timed.

    Args:
        seconds: least time that is wanted after the first epoch.

    Attributes:
        epochs: of the newest run in this process.
        images: of an epoch of it.
    """

    epochs: EpochClock
    images = 0

    def __init__(self, seconds: float = 10.0) -> None:
        self.seconds = seconds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Clock.epochs = EpochClock(self.seconds, pl_module.device.type)
        Clock.images = len(trainer.datamodule.index("train"))  # type: ignore[attr-defined]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch:
            self.epochs.stop()
            trainer.should_stop = self.epochs.has_enough
