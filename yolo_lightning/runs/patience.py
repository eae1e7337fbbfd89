"""Early stopping."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info

from ..system.lightning_internals import EarlyStoppingHooks
from .best_epoch import MONITOR, is_judged, mode_of

_NEVER = -1  # stopped_epoch while training has not stopped


class Patience(EarlyStoppingHooks, EarlyStopping):
    """Ends training after ``epochs`` validations without a better value of the monitor, and says so.

    Epochs without a validation do not count, nor do validations with nothing to find. A checkpoint holds the
    count, not the limit.

    Args:
        epochs: limit, 1 or more.
        monitor: metric that decides; see ``best_epoch``.
    """

    def __init__(self, epochs: int, monitor: str = MONITOR) -> None:
        super().__init__(monitor, mode=mode_of(monitor), patience=epochs, strict=False, check_finite=False)
        self.stopped_epoch = _NEVER

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not hasattr(trainer, "val_check_interval"):  # a time, where the base class needs a number
            self.judge_after_validation()
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        epochs = self.patience
        super().load_state_dict(state_dict)
        self.patience, self.stopped_epoch = epochs, _NEVER

    def is_judged(self, logs: dict[str, Any]) -> bool:
        return super().is_judged(logs) and is_judged(float(logs[self.monitor]))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train no further if the run was stopped early, unless the limit has been raised."""
        if self.wait_count >= self.patience:
            trainer.should_stop, self.stopped_epoch = True, trainer.current_epoch
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stopped_epoch != _NEVER:
            validations = f"{self.patience} validations (--patience)"
            rank_zero_info(f"early stop: {self.monitor} has not improved for {validations}")
