"""The end of a training that no longer gets better."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info


class Patience(EarlyStopping):
    """Ends training after so many epochs without a better ``val/map``, and says so.

    Its count is part of each checkpoint. Epochs without a validation do not count.

    Args:
        epochs: 1 or more.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__("val/map", mode="max", patience=epochs, strict=False, check_finite=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stopped_epoch:
            rank_zero_info(f"stopped: val/map has not become better in {self.patience} epochs (--patience)")
