"""The callbacks, the logger and the plugins of ``fit``, and the options of a whole run."""

from __future__ import annotations

from collections.abc import Iterator
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
from ..runs.best_epoch import MONITOR, checked_monitor, mode_of
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
from ..system.start_time import program_began_s


@dataclass(frozen=True)
class RunOptions:
    """Run directory, checkpoints and the end of a run."""

    runs_dir: str = "runs"
    """Folder of all runs."""
    run_name: str | None = None
    """Runs of one name are numbered: RUNS_DIR/RUN_NAME/version_K (default: the subcommand)."""
    checkpoint_minutes: float = 15.0
    """Minutes after which last.ckpt is written within an epoch, too; 0: only before a stop."""
    monitor: str = MONITOR
    """Metric that chooses best.ckpt and that patience follows, such as val/map_50, fitness or val/loss."""
    patience: int = 100
    """Epochs (validations) without a better value of the monitor after which training ends; 0: never."""
    deadline: str | None = None
    """Time of the whole run, from its start to its end, such as 2h, 1h30m or 90s. The schedule is fitted to
    it, not to trainer.max_epochs. Equal options give other numbers each time, because the clock decides."""
    save_period: int = 0
    """Epochs between checkpoints that are kept, as epoch_N.ckpt after N epochs; 0: none."""
    save_top_k: int = 0
    """Best epochs by the monitor that are kept, as top_N.ckpt after N epochs; 0: best.ckpt alone."""
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
    monitor: str = RunOptions.monitor,
    save_period: int = RunOptions.save_period,
    save_top_k: int = RunOptions.save_top_k,
) -> list[Callback]:
    """List the callbacks of training in order, except progress and the average of the weights.

    At the end of an epoch its row is written first, then the best and the newest checkpoint are saved,
    and then a stop that was asked for takes place. The report is made last of all.

    Args:
        run_directory: where everything goes; it is made if it does not exist.
        keep_checkpoints: whether to save checkpoints.
        checkpoint_minutes: time between checkpoints within an epoch; 0 for none.
        patience: epochs without a better value of ``monitor`` after which training ends; 0 for never.
        deadline: time of the whole run, such as ``2h``; None for ``trainer.max_epochs``.
        dashboard: what is drawn, logged and reported.
        monitor: metric that chooses the best epoch; see ``best_epoch.checked_monitor``.
        save_period: epochs between checkpoints that are kept; 0 for none.
        save_top_k: best epochs whose checkpoints are kept, beside ``best.ckpt``; 0 for none.

    Raises:
        InputError: a number is negative, the deadline is no time, or the metric is unknown.
    """
    numbers = {"checkpoint_minutes": checkpoint_minutes, "patience": patience}
    for name, value in (numbers | {"save_period": save_period, "save_top_k": save_top_k}).items():
        if not value >= 0:
            raise InputError(f"{name} is {value}; give 0 or more")
    monitor = checked_monitor(monitor)
    run = Path(run_directory)
    run.mkdir(parents=True, exist_ok=True)
    last = run / CHECKPOINTS / LAST if keep_checkpoints else None
    queue = BackgroundQueue()
    shown = list(_dashboard_callbacks(run, dashboard, queue, monitor))
    report = [RunReport(run, queue)] if dashboard.report else []
    return [
        *shown,
        StallMonitor(),
        Divergence(run, last),
        MidEpochResumption(),
        LeftOutList(run),
        *([Deadline(read_duration(deadline), program_began_s())] if deadline is not None else []),
        *([Patience(patience, monitor)] if patience else []),
        TimeBudget(run, queue, [*shown, *report], program_began_s()),
        RunRecorder(run, monitor),
        *(_checkpoint_callbacks(last.parent, monitor, save_period, save_top_k) if last else []),
        *report,
        Interruption(last, checkpoint_minutes),
    ]


def _checkpoint_callbacks(
    folder: Path, monitor: str, save_period: int, save_top_k: int
) -> Iterator[Callback]:
    checkpoint = partial(
        EpochCheckpoint,
        dirpath=folder,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
        auto_insert_metric_name=False,
    )
    by_monitor = partial(checkpoint, monitor=monitor, mode=mode_of(monitor))
    yield by_monitor(filename="best")
    if save_top_k:
        yield by_monitor(filename="top_{epoch}", save_top_k=save_top_k)
    if save_period:
        yield checkpoint(filename="epoch_{epoch}", every_n_epochs=save_period, save_top_k=-1)
    yield checkpoint(filename=Path(LAST).stem)


def _dashboard_callbacks(
    run: Path, config: DashboardConfig, queue: BackgroundQueue, monitor: str
) -> Iterator[Callback]:
    if config.gpu_health:
        yield GpuHealth(run)
    if config.pictures:
        yield Pictures(run, config.pictures, config.pictures_every, queue)
    if config.curves:
        yield EvaluationCurves(run, queue, monitor)
    if config.feature_maps_every:
        yield FeatureMapPictures(config.feature_maps_every, queue)
    yield Dashboard(run, config.graph)


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
