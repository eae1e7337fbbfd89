"""The callbacks, the logger and the plugins of ``fit``, and the options of a whole run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO

from ..errors import InputError
from ..monitoring.gpu_health.callback import GpuHealth
from ..monitoring.options import DashboardConfig
from ..monitoring.report.page import RunReport
from ..monitoring.tensorboard.curves import EvaluationCurves
from ..monitoring.tensorboard.layout import Dashboard
from ..monitoring.tensorboard.pictures import FeatureMapPictures, Pictures
from ..performance.stalls import StallMonitor
from ..performance.time_budget import TimeBudget
from ..runs.best_epoch import MONITOR
from ..runs.checkpoint import EpochCheckpoint
from ..runs.checkpoint_io import RunCheckpointIO
from ..runs.deadline import Deadline, read_duration
from ..runs.directory import CHECKPOINTS, LAST
from ..runs.divergence import Divergence
from ..runs.interruption import Interruption
from ..runs.left_out import LeftOutList
from ..runs.patience import Patience
from ..runs.record import RunRecorder
from ..runs.resumption import MidEpochResumption
from ..system.background import BackgroundQueue
from ..system.lightning_internals import has_checkpoint_io
from ..system.start_time import PROGRAM_BEGAN_S


@dataclass(frozen=True)
class RunOptions:
    """Run directory, checkpoints and the end of a run."""

    runs_dir: str = "runs"
    """Folder of all runs."""
    run_name: str | None = None
    """Runs of one name are numbered: RUNS_DIR/RUN_NAME/version_K (default: the subcommand)."""
    checkpoint_minutes: float = 15.0
    """Minutes after which last.ckpt is written within an epoch, too; 0: only before a stop."""
    patience: int = 100
    """Epochs (validations) without a better val/map after which training ends; 0: never."""
    deadline: str | None = None
    """Time of the whole run, from its start to its end, such as 2h, 1h30m or 90s. The schedule is fitted to
    it, not to trainer.max_epochs. Equal options give other numbers each time, because the clock decides."""
    seeds: int = 1
    """Train N times with seeds 0 .. N-1, as RUN_NAME-seed0 and so on; an option of the command line alone."""
    preflight_seconds: float = 120.0
    """Longest wait for the other processes at the start, if they are started side by side."""


def training_callbacks(
    run_directory: str | Path,
    keep_checkpoints: bool = True,
    checkpoint_minutes: float = RunOptions.checkpoint_minutes,
    patience: int = RunOptions.patience,
    deadline: str | None = RunOptions.deadline,
    dashboard: DashboardConfig = DashboardConfig(),
) -> list[Callback]:
    """List the callbacks of training in order, except progress and the average of the weights.

    At the end of an epoch its row is written first, then the best and the newest checkpoint are saved,
    and then a stop that was asked for takes place. The report is made last of all.

    Args:
        run_directory: where everything goes; it is made if it does not exist.
        keep_checkpoints: whether to save checkpoints.
        checkpoint_minutes: time between checkpoints within an epoch; 0 for none.
        patience: epochs without a better ``val/map`` after which training ends; 0 for never.
        deadline: time of the whole run, such as ``2h``; None for ``trainer.max_epochs``.
        dashboard: what is drawn, logged and reported.

    Raises:
        InputError: a number is negative, or the deadline is no time.
    """
    for name, value in (("checkpoint_minutes", checkpoint_minutes), ("patience", patience)):
        if not value >= 0:
            raise InputError(f"{name} is {value}; give 0 or more")
    run = Path(run_directory)
    run.mkdir(parents=True, exist_ok=True)
    folder = run / CHECKPOINTS
    checkpoint = partial(
        EpochCheckpoint, dirpath=folder, enable_version_counter=False, save_on_train_epoch_end=True
    )
    queue = BackgroundQueue()
    shown = _dashboard_callbacks(run, dashboard, queue)
    report = [RunReport(run, queue)] if dashboard.report else []
    callbacks = [
        *shown,
        StallMonitor(),
        Divergence(run, folder / LAST if keep_checkpoints else None),
        MidEpochResumption(),
        LeftOutList(run),
        *([Deadline(read_duration(deadline), PROGRAM_BEGAN_S)] if deadline is not None else []),
        *([Patience(patience)] if patience else []),
        TimeBudget(run, queue, [*shown, *report], PROGRAM_BEGAN_S),
        RunRecorder(run),
    ]
    if keep_checkpoints:
        callbacks.append(checkpoint(filename="best", monitor=MONITOR, mode="max"))
        callbacks.append(checkpoint(filename=Path(LAST).stem))
    callbacks += report
    callbacks.append(Interruption(folder / LAST if keep_checkpoints else None, checkpoint_minutes))
    return callbacks


def _dashboard_callbacks(run: Path, config: DashboardConfig, queue: BackgroundQueue) -> list[Callback]:
    callbacks: list[Callback] = []
    if config.gpu_health:
        callbacks.append(GpuHealth(run))
    if config.pictures:
        callbacks.append(Pictures(run, config.pictures, config.pictures_every, queue))
    if config.curves:
        callbacks.append(EvaluationCurves(run, queue))
    if config.feature_maps_every:
        callbacks.append(FeatureMapPictures(config.feature_maps_every, queue))
    callbacks.append(Dashboard(run, config.graph))
    return callbacks


def with_checkpoint_io(plugins: Any, strategy: Any) -> list[Any]:
    """List the user's plugins, and our checkpoint writer unless the plugins or the strategy have one."""
    given = plugins if isinstance(plugins, list) else [plugins] if plugins else []
    if any(isinstance(plugin, CheckpointIO) for plugin in given) or has_checkpoint_io(strategy):
        return given
    return [*given, RunCheckpointIO()]


def tensorboard(run_directory: Path, purge_step: int | None) -> TensorBoardLogger:
    """Make the logger; it drops curves from ``purge_step`` on, which an earlier start has written."""
    options: dict[str, Any] = {} if purge_step is None else {"purge_step": purge_step}
    return TensorBoardLogger(run_directory, name="", version="", default_hp_metric=False, **options)


def log_again(loggers: list[Any], purge_step: int) -> None:
    """Let TensorBoard drop the curves from ``purge_step`` on, once a run that goes back logs there again."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.close()
            logger.experiment.purge_step = purge_step
