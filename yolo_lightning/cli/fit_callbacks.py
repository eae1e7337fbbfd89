"""What a run of ``fit`` is equipped with: callbacks in the order in which they act, logger and plugins."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO

from ..errors import InputError
from ..monitoring.gpu_health.callback import GpuHealth
from ..monitoring.options import DashboardConfig
from ..monitoring.report.callback import RunReport
from ..monitoring.tensorboard.curves import EvaluationCurves
from ..monitoring.tensorboard.feature_maps import FeatureMaps
from ..monitoring.tensorboard.layout import Dashboard
from ..monitoring.tensorboard.pictures import Pictures
from ..performance.stalls import StallMonitor
from ..performance.time_budget import TimeBudget
from ..runs.checkpoint import EpochCheckpoint
from ..runs.checkpoint_io import RunCheckpointIO
from ..runs.directory import CHECKPOINTS, LAST
from ..runs.interruption import Interruption
from ..runs.patience import Patience
from ..runs.record import RunRecorder
from ..runs.resumption import MidEpochResumption
from ..system.background import BackgroundQueue
from ..system.lightning_internals import has_checkpoint_io
from ..system.start_time import PROGRAM_BEGAN_S


def training_callbacks(
    run_directory: str | Path,
    keep_checkpoints: bool = True,
    checkpoint_minutes: float = 15.0,
    patience: int = 100,
    dashboard: DashboardConfig = DashboardConfig(),
) -> list[Callback]:
    """The callbacks of training, besides progress and the average of the weights.

    At the end of an epoch first its row is written, then the best and the newest checkpoint are
    saved, and only then does a run stop that was asked to. The report comes when all else is there.

    Args:
        run_directory: Where everything goes; it is made if it is not there.
        keep_checkpoints: Whether there are to be any.
        checkpoint_minutes: Between checkpoints within an epoch; 0 for none.
        patience: Epochs without a better ``val/map`` after which training ends; 0 for never.
        dashboard: What the run shows of itself.

    Raises:
        InputError: a number is negative.
    """
    run_directory = Path(run_directory)
    for name, value in (("checkpoint_minutes", checkpoint_minutes), ("patience", patience)):
        if not value >= 0:
            raise InputError(f"{name} is {value}; give 0 or more")
    run_directory.mkdir(parents=True, exist_ok=True)
    folder = run_directory / CHECKPOINTS
    checkpoint = partial(
        EpochCheckpoint, dirpath=folder, enable_version_counter=False, save_on_train_epoch_end=True
    )
    queue = BackgroundQueue()
    showing = _showing(run_directory, dashboard, queue)
    callbacks: list[Callback] = [*showing, StallMonitor(), MidEpochResumption()]
    if patience:
        callbacks.append(Patience(patience))
    report = [RunReport(run_directory, queue)] if dashboard.report else []
    callbacks.append(TimeBudget(run_directory, queue, [*showing, *report], PROGRAM_BEGAN_S))
    callbacks.append(RunRecorder(run_directory))
    if keep_checkpoints:
        callbacks.append(checkpoint(filename="best", monitor="val/map", mode="max"))
        callbacks.append(checkpoint(filename=Path(LAST).stem))
    callbacks += report
    callbacks.append(Interruption(folder / LAST if keep_checkpoints else None, checkpoint_minutes))
    return callbacks


def _showing(run_directory: Path, config: DashboardConfig, queue: BackgroundQueue) -> list[Callback]:
    """What shows the run while it trains."""
    showing: list[Callback] = [GpuHealth(run_directory)] if config.gpu_health else []
    if config.pictures:
        showing.append(Pictures(run_directory, config.pictures, config.pictures_every, queue))
    if config.curves:
        showing.append(EvaluationCurves(run_directory, queue))
    if config.feature_maps_every:
        showing.append(FeatureMaps(config.feature_maps_every, queue))
    showing.append(Dashboard(run_directory, queue, config.graph))
    return showing


def with_checkpoint_io(plugins: Any, strategy: Any) -> list[Any]:
    """The plugins that the user gives, and what writes our checkpoints unless one of his does.

    Args:
        plugins: as ``trainer.plugins``.
        strategy: as ``trainer.strategy``, or an object.
    """
    given = plugins if isinstance(plugins, list) else [plugins] if plugins else []
    writes = any(isinstance(plugin, CheckpointIO) for plugin in given)
    if writes or has_checkpoint_io(strategy):
        return given
    return [*given, RunCheckpointIO()]


def tensorboard(run_directory: Path, purge_step: int | None) -> TensorBoardLogger:
    """The logger; from ``purge_step`` on, what is in its files is taken out of the curves."""
    options: dict[str, Any] = {} if purge_step is None else {"purge_step": purge_step}
    return TensorBoardLogger(run_directory, name="", version="", default_hp_metric=False, **options)
