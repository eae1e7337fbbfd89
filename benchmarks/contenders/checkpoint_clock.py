"""A callback that times a whole ``fit`` with its checkpoints."""

from __future__ import annotations

import time

from lightning.pytorch import Callback, LightningModule, Trainer

from yolo_lightning.checkpoint_io import RunCheckpointIO


class CheckpointClock(Callback):
    """From the start of training to the end of ``fit``, by when every checkpoint is on the disk.

    The command line builds it, so that what it saw is read from the class.

    Attributes:
        seconds: between the two.
        saves: checkpoints that were handed over to be written.
        stall_s: how long training was held for them.
    """

    seconds = 0.0
    saves = 0
    stall_s = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_s = time.perf_counter()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs after the Trainer has closed what writes the checkpoints."""
        CheckpointClock.seconds = time.perf_counter() - self._begin_s
        io = trainer.strategy.checkpoint_io
        assert isinstance(io, RunCheckpointIO)
        CheckpointClock.saves, CheckpointClock.stall_s = io.saves, io.stall_seconds
