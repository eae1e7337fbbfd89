"""Checkpoints at the end of every whole epoch."""

from __future__ import annotations

import math
from typing import Any
from weakref import proxy

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from ..system.lightning_internals import CheckpointHooks, is_stopping
from .best_epoch import MONITOR, is_better
from .checkpoint_io import RunCheckpointIO, is_local


class EpochCheckpoint(CheckpointHooks, ModelCheckpoint):
    """Lightning's ``ModelCheckpoint`` with six changes.

    * An epoch without an optimizer step since the last checkpoint is saved too: with few images one step
      takes the gradients of several epochs, and those are part of the state.
    * An epoch that ``max_steps`` or ``max_time`` cut short is not saved as a whole one, because its other
      batches would never be trained; ``Interruption`` has saved the position within it.
    * The validation at such an end can still be the best one.
    * Best and last of one epoch are one checkpoint, which is written once.
    * ``best_epoch`` decides which epochs are the best; ``monitor`` names their metric.
    * ``{epoch}`` in a file name is the number of epochs trained, as on the screen.
    """

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint; several of these callbacks may have one monitor."""
        return super().state_key if self._is_one_file else f"{super().state_key}[{self.filename}]"

    @property
    def _is_one_file(self) -> bool:
        return "{" not in str(self.filename)

    def format_checkpoint_name(self, metrics: dict[str, Tensor], *args: Any, **kwargs: Any) -> str:
        return super().format_checkpoint_name(metrics | {"epoch": metrics["epoch"] + 1}, *args, **kwargs)

    def candidates(self, trainer: Trainer) -> dict[str, Tensor]:
        """Metrics of now; NaN for the monitor if there was a validation with nothing to find."""
        metrics = super().candidates(trainer)
        if self.monitor and any(name.startswith("val/") for name in metrics):
            metrics.setdefault(self.monitor, torch.tensor(math.nan))
        return metrics

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self.forget_last_save()
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge a validation within an epoch that ends training, by patience or a limit on time."""
        loop = trainer.fit_loop
        is_within = not (trainer.sanity_checking or loop.epoch_loop.batch_progress.is_last_batch)
        if self.monitor and is_within and is_stopping(trainer):
            self.save_if_best(trainer)

    def save(self, trainer: Trainer, path: str) -> None:
        io = trainer.strategy.checkpoint_io
        if not (isinstance(io, RunCheckpointIO) and is_local(path)):
            super().save(trainer, path)
            return
        progress = trainer.current_epoch, trainer.fit_loop.total_batch_idx, trainer.global_step
        now = *progress, self.save_weights_only
        if io.saved and io.saved[0] == now and io.saved[1] != path:
            if trainer.is_global_zero:
                io.save_again(io.saved[1], path)
            self.note_save(trainer, path)
            for logger in trainer.loggers if trainer.is_global_zero else ():
                logger.after_save_checkpoint(proxy(self))
            if self.monitor and not self._is_one_file:  # last.ckpt has to know the new one, too
                io.saved = None
        else:
            super().save(trainer, path)
            io.saved = now, path

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        replaced = self.best_model_score
        if self.save_top_k > 1:
            has_room = len(self.best_k_models) < self.save_top_k
            replaced = None if has_room else self.best_k_models[self.kth_best_model_path]
        score = None if replaced is None else float(replaced)
        return current is not None and is_better(float(current), score, self.monitor or MONITOR)
