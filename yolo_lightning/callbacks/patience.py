"""The end of a training that no longer gets better."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info


class Patience(EarlyStopping):
    """Ends training after so many epochs without a better ``val/map``, and says so.

    Its count is part of each checkpoint, the limit is not. What counts is validations: epochs without
    one do not, and those with several count as often.

    Args:
        epochs: 1 or more.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__("val/map", mode="max", patience=epochs, strict=False, check_finite=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        epochs = self.patience
        super().load_state_dict(state_dict)
        self.patience, self.stopped_epoch = epochs, 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stopped_epoch:
            rank_zero_info(f"stopped: val/map has not become better in {self.patience} epochs (--patience)")
