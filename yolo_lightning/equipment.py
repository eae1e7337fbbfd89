"""What a run of ``fit`` is equipped with: callbacks in the order in which they act, logger and plugins."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO

from .callbacks.checkpoint import EpochCheckpoint
from .callbacks.interruption import Interruption
from .callbacks.patience import Patience
from .callbacks.record import RunRecorder
from .callbacks.resumption import MidEpochResumption
from .callbacks.stalls import StallMonitor
from .checkpoint_io import RunCheckpointIO
from .errors import InputError
from .runs import CHECKPOINTS, LAST


def training_callbacks(
    run_directory: Path, keep_checkpoints: bool, checkpoint_minutes: float, patience: int
) -> list[Callback]:
    """The callbacks of training, besides progress and the average of the weights.

    At the end of an epoch first its row is written, then the best and the newest checkpoint are
    saved, and only then does a run stop that was asked to.

    Args:
        run_directory: Where everything goes.
        keep_checkpoints: Whether there are to be any.
        checkpoint_minutes: Between checkpoints within an epoch; 0 for none.
        patience: Epochs without a better ``val/map`` after which training ends; 0 for never.

    Raises:
        InputError: a number is negative.
    """
    for name, value in (("checkpoint_minutes", checkpoint_minutes), ("patience", patience)):
        if not value >= 0:
            raise InputError(f"{name} is {value}; give 0 or more")
    folder = run_directory / CHECKPOINTS
    checkpoint = partial(
        EpochCheckpoint, dirpath=folder, enable_version_counter=False, save_on_train_epoch_end=True
    )
    callbacks: list[Callback] = [StallMonitor(), MidEpochResumption()]
    if patience:
        callbacks.append(Patience(patience))
    callbacks.append(RunRecorder(run_directory))
    if keep_checkpoints:
        callbacks.append(checkpoint(filename="best", monitor="val/map", mode="max"))
        callbacks.append(checkpoint(filename=Path(LAST).stem))
    callbacks.append(Interruption(folder / LAST if keep_checkpoints else None, checkpoint_minutes))
    return callbacks


def with_checkpoint_io(plugins: Any, strategy: Any) -> list[Any]:
    """The plugins that the user gives, and what writes our checkpoints unless one of his does.

    Args:
        plugins: as ``trainer.plugins``.
        strategy: as ``trainer.strategy``, or an object.
    """
    given = plugins if isinstance(plugins, list) else [plugins] if plugins else []
    writes = any(isinstance(plugin, CheckpointIO) for plugin in given)
    if writes or getattr(strategy, "_checkpoint_io", None):
        return given
    return [*given, RunCheckpointIO()]


def tensorboard(run_directory: Path, purge_step: int | None) -> TensorBoardLogger:
    """The logger; from ``purge_step`` on, what is in its files is taken out of the curves."""
    options: dict[str, Any] = {} if purge_step is None else {"purge_step": purge_step}
    return TensorBoardLogger(run_directory, name="", version="", default_hp_metric=False, **options)
