"""What a run prints: a live bar, one line an epoch, tables, and at the end where everything is."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn

# Lightning depends on tqdm, so nothing more is installed; rich would be one more package, and it
# redraws in a thread of its own.
from tqdm import tqdm  # type: ignore[import-untyped]

from .stalls import StallMonitor

_BAR_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {elapsed}<{remaining}{postfix}"
_LOSS_INTERVAL_S = 1.0
"""Losses are read at most this often: reading waits for the device."""
_HEADER_INTERVAL = 20
"""Lines between two headers."""


class EpochProgress(ProgressBar):
    """Live bars on a terminal, and one line an epoch everywhere.

    Where standard output is not a terminal nothing but whole lines is written. A line holds the
    figures of its epoch: the mean losses of ``train/*_loss``, ``val/map_50`` and ``val/map`` if that
    epoch was validated, images per second, the part of the time spent waiting for data, the seconds
    that the epoch took with its validation, and a star where ``val/map`` is the best so far. Epochs
    count from 1 here, as in ``3/30``.

    ``validate`` and ``test`` print a table; ``fit`` ends with where everything is.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._train_bar: tqdm | None = None
        self._evaluation_bar: tqdm | None = None
        self._epoch = 0
        self._start = 0.0
        """Epochs trained when this process began, with a part of one."""
        self._run_start_s = 0.0
        self._epoch_start_s = 0.0
        self._epoch_seconds: float | None = None
        """Set from the end of an epoch until its line is printed."""
        self._losses_read_s = 0.0
        self._losses_text = ""
        self._validated: dict[str, float] = {}
        self._is_best = False
        self._best: dict[str, float] = {}
        self._header: list[str] = []
        self._lines = 0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    @property
    def is_enabled(self) -> bool:
        """Whether this process prints."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best = dict(state_dict["best"])

    def print(self, *args: Any, sep: str = " ", **kwargs: Any) -> None:
        """Print a line without breaking a bar."""
        if not self._enabled:
            return
        if _is_terminal():
            tqdm.write(sep.join(map(str, args)), file=sys.stdout)
        else:
            print(*args, sep=sep, flush=True)

    # -- training ----------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._header, self._lines, self._epoch_seconds = [], 0, None
        self._run_start_s = perf_counter()
        loop, total = trainer.fit_loop, self.total_train_batches
        done = loop.epoch_loop.batch_progress.current.ready if loop.restarted_mid_epoch else 0
        self._start = trainer.current_epoch + (done / total if 0 < total < math.inf else 0)
        self._begin_epoch(trainer)  # a run that resumes within an epoch does not pass through its start

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_epoch(trainer)
        self._begin_epoch(trainer)

    def _begin_epoch(self, trainer: Trainer) -> None:
        self._close_bars()
        self._epoch = trainer.current_epoch
        self._epoch_start_s = perf_counter()
        self._validated, self._is_best = {}, False
        self._losses_text = ""
        self._train_bar = self._open_bar(f"epoch {self._epoch_text(trainer)}", self.total_train_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._train_bar is None:
            return
        self._train_bar.update(batch_idx + 1 - self._train_bar.n)
        now = perf_counter()
        is_due = now - self._losses_read_s > _LOSS_INTERVAL_S
        if is_due or not self._losses_text:
            self._losses_text = _running_losses(pl_module)
            self._losses_read_s = perf_counter()
        if is_due or trainer.is_last_batch:  # what the last one shows stays while validation runs
            parts = (self._losses_text, _stall_text(trainer), self._time_left(trainer, batch_idx + 1, now))
            self._train_bar.set_postfix_str("  ".join(part for part in parts if part))

    def _time_left(self, trainer: Trainer, batches: int, now: float) -> str:
        """Time until the run ends, at the pace it has had so far."""
        epochs, total = trainer.max_epochs or 0, self.total_train_batches
        if epochs < 1 or math.isinf(total):
            return ""
        reached = self._epoch + batches / total
        seconds = (now - self._run_start_s) / (reached - self._start) * (epochs - reached)
        return f"run {tqdm.format_interval(max(seconds, 0))} left"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_seconds = perf_counter() - self._epoch_start_s
        self._close_bars()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_epoch(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close_bars()
        if isinstance(exception, KeyboardInterrupt | SystemExit) and trainer.state.fn == TrainerFn.FITTING:
            self._print_epoch(trainer)  # stopped from outside, not failed
            self._print_whereabouts(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_whereabouts(trainer)

    def _print_epoch(self, trainer: Trainer) -> None:
        """Print the line of the epoch that has ended, if it is not printed yet.

        Runs in the first hook after the end of an epoch: what the module logs there, and what is
        averaged over processes, is not in ``callback_metrics`` before.
        """
        if self._epoch_seconds is None or not self._enabled:
            return
        metrics = _floats(trainer, "")
        cells = {"epoch": self._epoch_text(trainer)}
        cells |= {
            name.removeprefix("train/").removesuffix("_loss"): f"{value:.4f}"
            for name, value in metrics.items()
            if name.startswith("train/") and name.endswith("_loss")
        }
        cells["mAP50"] = _number(self._validated.get("map_50"), ".4f")
        cells["mAP50-95"] = _number(self._validated.get("map"), ".4f")
        cells["images/s"] = _number(metrics.get("perf/images_per_second"), ".1f")
        cells["data wait"] = _number(metrics.get("perf/data_wait_fraction"), ".0%")
        cells["seconds"] = _number(self._epoch_seconds, ".1f")
        if self._header != list(cells) or self._lines % _HEADER_INTERVAL == 0:
            self._header, self._lines = list(cells), 0
            self.print("".join(f"{title:>10}" for title in cells))
        self._lines += 1
        self.print("".join(f"{cell:>10}" for cell in cells.values()) + ("  *" if self._is_best else ""))
        self._epoch_seconds = None

    def _print_whereabouts(self, trainer: Trainer) -> None:
        run = Path(trainer.default_root_dir)
        if self._best:
            self.print(f"best val/map {self._best['map']:.4f} in epoch {int(self._best['epoch']) + 1}")
        self.print(f"run directory  {run}")
        for name in ("best", "last"):
            path = run / "checkpoints" / f"{name}.ckpt"
            if path.exists():
                self.print(f"{name + ' weights':<13}  {path}")
        self.print(f"curves         tensorboard --logdir {shlex.quote(str(run))}")

    # -- evaluation and prediction -----------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        below = int(self._train_bar is not None)
        self._evaluation_bar = self._open_bar("validating", sum(batches), position=below)

    def on_validation_batch_end(self, *_: Any) -> None:
        self._advance()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close_evaluation_bar()
        if trainer.sanity_checking or not self._enabled:
            return
        values = _floats(trainer, "val/")
        if trainer.state.fn != TrainerFn.FITTING:
            self._print_table("val", values)
            return
        self._validated = values
        score = values.get("map", math.nan)
        self._is_best = score > self._best.get("map", -math.inf)
        if self._is_best:
            self._best = {"map": score, "epoch": trainer.current_epoch}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluation_bar = self._open_bar("testing", sum(trainer.num_test_batches))

    def on_test_batch_end(self, *_: Any) -> None:
        self._advance()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close_evaluation_bar()
        self._print_table("test", _floats(trainer, "test/"))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluation_bar = self._open_bar("predicting", sum(trainer.num_predict_batches))

    def on_predict_batch_end(self, *_: Any) -> None:
        self._advance()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close_evaluation_bar()

    def _print_table(self, split: str, values: dict[str, float]) -> None:
        columns = {"mAP50-95": "map", "mAP50": "map_50", "mAP75": "map_75",
                   "small": "map_small", "medium": "map_medium", "large": "map_large"}  # fmt: skip
        classes = {n.removeprefix("map_class/"): v for n, v in values.items() if n.startswith("map_class/")}
        width = max(len(name) for name in (split, "all classes", *classes))
        self.print(f"{split:<{width}}" + "".join(f"{title:>10}" for title in columns))
        cells = [_number(values.get(key), ".4f") for key in columns.values()]
        self.print(f"{'all classes':<{width}}" + "".join(f"{cell:>10}" for cell in cells))
        for name, value in classes.items():
            self.print(f"{name:<{width}}{_number(value, '.4f'):>10}")

    # -- bars --------------------------------------------------------------------------------------

    def _open_bar(self, description: str, total: float, position: int = 0) -> tqdm | None:
        if not (self._enabled and _is_terminal()):
            return None
        count = None if math.isinf(total) else int(total)
        return tqdm(desc=description, total=count, position=position, leave=False, dynamic_ncols=True,
                    file=sys.stdout, bar_format=_BAR_FORMAT)  # fmt: skip

    def _advance(self) -> None:
        if self._evaluation_bar is not None:
            self._evaluation_bar.update()

    def _close_evaluation_bar(self) -> None:
        if self._evaluation_bar is not None:
            self._evaluation_bar.close()
            self._evaluation_bar = None

    def _close_bars(self) -> None:
        self._close_evaluation_bar()
        if self._train_bar is not None:
            self._train_bar.close()
            self._train_bar = None

    def _epoch_text(self, trainer: Trainer) -> str:
        epochs = trainer.max_epochs or 0
        return f"{self._epoch + 1}/{epochs}" if epochs > 0 else str(self._epoch + 1)


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _floats(trainer: Trainer, prefix: str) -> dict[str, float]:
    """The logged metrics whose names begin with ``prefix``, without it."""
    metrics = trainer.callback_metrics
    return {name.removeprefix(prefix): float(v) for name, v in metrics.items() if name.startswith(prefix)}


def _number(value: float | None, form: str) -> str:
    """A figure, or a dash where there is none; below zero is COCO's word for "no such object"."""
    return "-" if value is None or math.isnan(value) or value < 0 else format(value, form)


def _running_losses(pl_module: LightningModule) -> str:
    """The losses so far, in one read from the device."""
    losses: dict[str, torch.Tensor] = getattr(pl_module, "running_losses", {})
    if not losses:
        return ""
    values = torch.stack([value.detach().float() for value in losses.values()]).tolist()
    return "  ".join(f"{name} {value:.4f}" for name, value in zip(losses, values, strict=True))


def _stall_text(trainer: Trainer) -> str:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StallMonitor) and callback.images_per_second > 0:
            return f"{callback.images_per_second:.1f} images/s  data wait {callback.data_wait_fraction:.0%}"
    return ""
