"""Output of a run: live bars, one line an epoch, tables, and finally the paths of its results."""

from __future__ import annotations

import math
import os
import shlex
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from ...performance.stalls import StallMonitor
from ...runs.best_epoch import MONITOR, is_better, is_judged
from ...system.text import clock
from ...training.contracts import TrainsDetections, detection_module
from ..metric_names import number
from ..tensorboard.writer import writer_of
from .display import Bar, Display, NotebookDisplay
from .epoch_table import OPERATING_POINT, EpochTable, metric_table
from .time_left import TimeLeft, left_text, time_left

_LOSS_INTERVAL_S = 1.0
"""Losses are read at most this often: reading waits for the device."""


class EpochProgress(ProgressBar):
    """Live bars on a terminal and in a notebook, and one line an epoch everywhere.

    A log file gets whole lines only. The line of an epoch has the mean training losses, and if the epoch
    was validated, precision, recall and F1 at the best confidence, ``val/map_50`` and ``val/map``; images per
    second, the share of time spent waiting for data, the seconds of the epoch with its validation, and the
    time left for the run with its validations and checkpoints (``≥`` until each of them was measured once).
    The best epoch so far has a star, and on a terminal a green line. Epochs count from 1, as in ``3/30``.

    If something is compiled, a line says so before the first batch, and another how long the batch took.
    ``validate`` and ``test`` print a table; ``fit`` ends with the paths of its results.

    Args:
        monitor: metric that chooses the best epoch.
    """

    def __init__(self, monitor: str = MONITOR) -> None:
        super().__init__()
        self.monitor = monitor
        self.is_enabled = True
        self._display = Display()
        self._table = EpochTable()
        self._train_bar = self._evaluation_bar = Bar("", 0, 0.0)
        self._time_left = TimeLeft(0, 0, 0)
        self._epoch = 0
        self._epoch_start_s = 0.0
        self._epoch_seconds: float | None = None
        """Set from the end of an epoch until its line is printed."""
        self._announcement: str | None = None
        """Line about compilation to print before the first batch."""
        self._compiling_since_s: float | None = None
        """Start of the first batch, if something is compiled in it."""
        self._losses_read_s = 0.0
        self._losses_text = ""
        self._validated: dict[str, float] = {}
        self._is_best = False
        self._best: dict[str, float] = {}
        """Monitor of the best epoch, as ``map``, and its number; empty if no epoch was judged."""

    def disable(self) -> None:
        self.is_enabled = False

    def enable(self) -> None:
        self.is_enabled = True

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "monitor": self.monitor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict.get("monitor", MONITOR) == self.monitor:
            self._best = dict(state_dict["best"])

    def print(self, *args: Any, sep: str = " ", **kwargs: Any) -> None:
        """Print a line above the bars."""
        self._say(sep.join(map(str, args)))

    def _say(self, line: str, style: str = "") -> None:
        if self.is_enabled:
            self._display.print(line, style)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._close_bars()
        self._display = open_display() if self.is_enabled else Display()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close_bars()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close_bars()
        if isinstance(exception, KeyboardInterrupt | SystemExit) and trainer.state.fn == TrainerFn.FITTING:
            self._print_epoch(trainer)  # stopped by the user, not by an error
            self._print_results(trainer)

    # -- training ----------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = detection_module(pl_module)
        self._announcement = module.compilation.announcement if module else None
        self._compiling_since_s = None
        self._table = EpochTable()
        self._time_left = time_left(trainer)
        self._epoch_seconds = None
        loop = trainer.fit_loop
        done = loop.epoch_loop.batch_progress.current.ready if loop.restarted_mid_epoch else 0
        self._begin_epoch(trainer, done)  # on_train_epoch_start is not called if a run resumes in mid-epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_epoch(trainer)
        self._begin_epoch(trainer)

    def _begin_epoch(self, trainer: Trainer, done: int = 0) -> None:
        self._close_bars()
        self._epoch = trainer.current_epoch
        self._epoch_start_s = perf_counter()
        self._validated = {}
        self._losses_text = ""
        self._time_left.begin_epoch(self._epoch_start_s, self._epoch)
        self._train_bar = self._open_bar(f"epoch {self._epoch_text(trainer)}", self.total_train_batches)
        self._train_bar.done = done

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._announcement is None:
            return
        self._compiling_since_s = now = perf_counter()
        self._train_bar.notes = ["compiling"]
        self._display.draw(now)
        self._say(self._announcement)
        self._announcement = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = perf_counter()
        module = detection_module(pl_module)
        if self._compiling_since_s is not None and not (module and module.waiting):
            seconds = now - self._compiling_since_s
            self._say(f"the first batch took {seconds:.1f} s, compilation included")
            self._compiling_since_s = None
        self._time_left.end_batch(now)
        self._train_bar.done = batch_idx + 1
        # The last state is shown during validation.
        if self._display.is_due(now) or (self._display.is_live and trainer.is_last_batch):
            if now - self._losses_read_s > _LOSS_INTERVAL_S or not self._losses_text:
                self._losses_text = _running_losses(module)
                self._losses_read_s = perf_counter()
            self._draw(trainer, now)

    def _draw(self, trainer: Trainer, now: float) -> None:
        """Update the bars."""
        text = left_text(trainer, self._time_left.within_epoch(self._train_bar.done))
        notes = (f"run {text} left" if text else "", self._losses_text, _stall_text(trainer))
        self._train_bar.notes = [note for note in notes if note]
        if (bar := self._evaluation_bar).done and math.isfinite(bar.total):
            pace_s = (now - bar.began_s) / bar.done
            bar.notes = [f"{clock(pace_s * (bar.total - bar.done))} left"]
        self._display.draw(now)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_seconds = perf_counter() - self._epoch_start_s
        # Of the last validation, as best.ckpt; below 0: none, or no labels.
        score = self._validated.get(self.monitor.removeprefix("val/"), -1.0)
        self._is_best = is_judged(score) and is_better(score, self._best.get("map"), self.monitor)
        if self._is_best:
            self._best = {"map": score, "epoch": trainer.current_epoch}
        self._close_bars()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_epoch(trainer, is_last=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_results(trainer)

    def _print_epoch(self, trainer: Trainer, is_last: bool = False) -> None:
        """Print the line of the epoch that has ended, unless it was printed.

        Called in the first hook after the end of an epoch: ``callback_metrics`` has the module's metrics
        of that hook, averaged over processes, only afterwards.
        """
        if self._epoch_seconds is None or not self.is_enabled:
            return
        self._time_left.end_epoch(perf_counter())
        metrics = _floats(trainer, "")
        cells = {"epoch": self._epoch_text(trainer)}
        cells |= {
            name.removeprefix("train/").removesuffix("_loss"): f"{value:.4f}"
            for name, value in metrics.items()
            if name.startswith("train/") and name.endswith("_loss")
        }
        for title, name in OPERATING_POINT.items():
            cells[title] = number(self._validated.get(name), ".4f")
        cells["mAP50"] = number(self._validated.get("map_50"), ".4f")
        cells["mAP50-95"] = number(self._validated.get("map"), ".4f")
        cells["images/s"] = number(metrics.get("perf/images_per_second"), ".1f")
        cells["data wait"] = number(metrics.get("perf/data_wait_fraction"), ".0%")
        cells["seconds"] = number(self._epoch_seconds, ".1f")
        left = clock(0) if is_last else left_text(trainer, self._time_left.after_epoch())
        cells["left"] = left or "-"
        header, row = self._table.lines(cells, self._is_best, self._display.width)
        if header:
            self._say(header, "bold")
        self._say(row, "bold green" if self._is_best else "")
        self._epoch_seconds = None

    def _print_results(self, trainer: Trainer) -> None:
        run = Path(trainer.default_root_dir)
        if best := self._best:
            score, epoch = best["map"], int(best["epoch"]) + 1
            self._say(f"best {self.monitor} {score:.4f} in epoch {epoch}", "bold green")
        self._say(f"run directory  {run}")
        for name in ("best", "last"):
            path = run / "checkpoints" / f"{name}.ckpt"
            if path.exists():
                self._say(f"{name + ' weights':<13}  {path}")
        if writer_of(trainer) is not None:
            self._say(f"curves         tensorboard --logdir {shlex.quote(str(run))}")

    # -- evaluation and prediction -----------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._evaluation_bar = self._open_bar("validating", sum(batches))
        self._time_left.begin_validation(perf_counter())

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._evaluation_bar.done += 1
        now = perf_counter()
        if self._display.is_due(now):
            self._draw(trainer, now)

    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]
    on_predict_batch_end = on_validation_batch_end  # type: ignore[assignment]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._display.close(self._evaluation_bar)
        self._time_left.end_validation(perf_counter())
        if trainer.sanity_checking or not self.is_enabled:
            return
        values = _floats(trainer, "val/")
        if trainer.state.fn == TrainerFn.FITTING:
            self._validated = values
        else:
            self._say("\n".join(metric_table("val", values)))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluation_bar = self._open_bar("testing", sum(trainer.num_test_batches))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._display.close(self._evaluation_bar)
        self._say("\n".join(metric_table("test", _floats(trainer, "test/"))))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluation_bar = self._open_bar("predicting", sum(trainer.num_predict_batches))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._display.close(self._evaluation_bar)

    # -- bars --------------------------------------------------------------------------------------

    def _open_bar(self, label: str, total: float) -> Bar:
        return self._display.open(label, total, perf_counter())

    def _close_bars(self) -> None:
        self._display.close(self._evaluation_bar, self._train_bar)

    def _epoch_text(self, trainer: Trainer) -> str:
        epochs = trainer.max_epochs or 0
        return f"{self._epoch + 1}/{epochs}" if epochs > 0 else str(self._epoch + 1)


def open_display() -> Display:
    """Open the display of standard output: live on a terminal and in a notebook, whole lines elsewhere."""
    try:
        is_terminal = sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in {"dumb", "unknown"}
    except (AttributeError, ValueError):  # no stream, or a closed one
        is_terminal = False
    if is_terminal:
        from .terminal import TerminalDisplay  # Rich is slow to import, and a log does not need it

        return TerminalDisplay(sys.stdout)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return NotebookDisplay() if hasattr(shell, "kernel") else Display()


def _floats(trainer: Trainer, prefix: str) -> dict[str, float]:
    """Logged metrics whose names begin with ``prefix``, without the prefix."""
    metrics = trainer.callback_metrics
    return {name.removeprefix(prefix): float(v) for name, v in metrics.items() if name.startswith(prefix)}


def _running_losses(module: TrainsDetections | None) -> str:
    """Losses so far, read from the device at once."""
    losses = module.running_losses if module else {}
    if not losses:
        return ""
    values = torch.stack([value.detach().float() for value in losses.values()]).tolist()
    return "  ".join(f"{name} {value:.4f}" for name, value in zip(losses, values, strict=True))


def _stall_text(trainer: Trainer) -> str:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StallMonitor) and callback.images_per_second > 0:
            return f"{callback.images_per_second:.1f} images/s  data wait {callback.data_wait_fraction:.0%}"
    return ""
