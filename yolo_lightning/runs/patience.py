"""The end of a training that no longer gets better."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info

from ..system.lightning_internals import EarlyStoppingHooks

_NEVER = -1
"""Epoch of a stop that there was not."""


class Patience(EarlyStoppingHooks, EarlyStopping):
    """Ends training after so many epochs without a better ``val/map``, and says so.

    Its count is part of each checkpoint, the limit is not. What counts is validations: epochs without
    one do not, and those with several count as often; nor does one with nothing to find (-1).

    Args:
        epochs: 1 or more.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__("val/map", mode="max", patience=epochs, strict=False, check_finite=False)
        self.stopped_epoch = _NEVER

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not hasattr(trainer, "val_check_interval"):  # it is a time, and the base class asks for a number
            self.judge_after_validation()
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        epochs = self.patience
        super().load_state_dict(state_dict)
        self.patience, self.stopped_epoch = epochs, _NEVER

    def is_judged(self, logs: dict[str, Any]) -> bool:
        return super().is_judged(logs) and not bool(logs[self.monitor] < 0)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave a run as it is that ended for want of patience, unless it is given more."""
        if self.wait_count >= self.patience:
            trainer.should_stop, self.stopped_epoch = True, trainer.current_epoch
            self._tell()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stopped_epoch != _NEVER:
            self._tell()

    def _tell(self) -> None:
        rank_zero_info(
            f"stopped: validations without a better val/map have come to {self.patience} (--patience)"
        )
