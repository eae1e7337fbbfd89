"""Callbacks that time what checkpoints add to a ``fit``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer

from yolo_lightning.runs.checkpoint_io import RunCheckpointIO
from yolo_lightning.runs.directory import CHECKPOINTS, LAST


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


class AlternatingCheckpoints(CheckpointClock):
    """Saves after every batch of some epochs, in the order yes, no, no, yes, and times each epoch.

    An epoch is timed from its start to the end of its validation, so that it holds all that its saves
    cost: what training is held for, and what writing the files takes from the steps beside it. Neighbours
    in one process are alike but for that, and many saves show where one would be lost in the noise.

    Attributes:
        saved_s: seconds of each epoch with saves.
        unsaved_s: seconds of each one without.
        batches: of an epoch.
    """

    saved_s: ClassVar[list[float]] = []
    unsaved_s: ClassVar[list[float]] = []
    batches = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_began_s = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_saved(trainer.current_epoch):
            trainer.save_checkpoint(Path(trainer.default_root_dir) / CHECKPOINTS / LAST, weights_only=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation comes before it, the epoch's own checkpoint after it."""
        AlternatingCheckpoints.batches = int(trainer.num_training_batches)
        if trainer.current_epoch > 0:  # the first one warms up
            taken_s = self.saved_s if is_saved(trainer.current_epoch) else self.unsaved_s
            taken_s.append(time.perf_counter() - self._epoch_began_s)


def is_saved(epoch: int) -> bool:
    """Whether an epoch, from 0, has saves: drift that is linear over four of them, from 1, cancels."""
    return epoch % 4 in (1, 0)
