"""Checkpoints at the end of every whole epoch."""

from __future__ import annotations

from weakref import proxy

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from .checkpoint_io import RunCheckpointIO, is_local


class EpochCheckpoint(ModelCheckpoint):
    """Lightning's checkpoint, with what a YOLOv5 needs of it.

    * An epoch that ends without an optimizer step since the last checkpoint is saved all the same: with
      few images a step takes several epochs of gradients, and those are part of the state.
    * An epoch that a limit on steps or time cut short is not saved as a whole one, because its other
      batches would never be trained; ``Interruption`` has saved where it stopped. A validation with which
      it ends can be the best one all the same.
    * Best and last of one epoch are the same checkpoint, and are written once.
    * Where validation has nothing to find, and the metric is -1, the newest epoch is the best one.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._last_global_step_saved = -1
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge a validation within an epoch with which training ends, by patience or a limit on time."""
        loop = trainer.fit_loop
        is_within = not (trainer.sanity_checking or loop.epoch_loop.batch_progress.is_last_batch)
        if self.monitor and is_within and trainer.should_stop and loop._can_stop_early:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        io = trainer.strategy.checkpoint_io
        if not (isinstance(io, RunCheckpointIO) and is_local(filepath)):
            super()._save_checkpoint(trainer, filepath)
            return
        progress = trainer.current_epoch, trainer.fit_loop.total_batch_idx, trainer.global_step
        now = *progress, self.save_weights_only
        if io.saved and io.saved[0] == now and io.saved[1] != filepath:
            if trainer.is_global_zero:
                io.save_again(io.saved[1], filepath)
            self._last_global_step_saved, self._last_checkpoint_saved = trainer.global_step, filepath
            for logger in trainer.loggers if trainer.is_global_zero else ():
                logger.after_save_checkpoint(proxy(self))
        else:
            super()._save_checkpoint(trainer, filepath)
            io.saved = now, filepath

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        return (current is not None and bool(current < 0)) or super().check_monitor_top_k(trainer, current)
