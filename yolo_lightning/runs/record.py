"""What a run leaves behind: metrics.csv and summary.json, whole after every epoch, and environment.json."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_only

from ..system.cores import usable_cores
from ..system.environment import PACKAGES, _version, git_commit
from ..system.files import write_whole
from ..system.lightning_internals import logging_step
from .directory import METRICS, best_row, images_per_second, read_metrics


class RunRecorder(Checkpoint):
    """Writes one row an epoch to ``metrics.csv`` and the state of the run to ``summary.json``.

    A run that resumes keeps the rows of the epochs before it, drops those of epochs that it trains
    again, and adds its own. At an epoch's end the last one that it keeps is logged again: it is logged
    when its checkpoint is saved already, so that a run that was killed may have lost it from the curves,
    where whatever is as late has been taken out (``Resumption.purge_step``).
    Each file is written beside its place and moved into it, so that a killed run leaves the last
    whole one. Being a ``Checkpoint``, it is called after everything that an epoch logs; listed before
    those that save, it has written the row of every epoch that there is a checkpoint of.

    Args:
        directory: the run directory.
        monitor: the metric, the larger the better, that says which epoch is the best.
    """

    def __init__(self, directory: str | Path, monitor: str = "val/map") -> None:
        self.directory = Path(directory)
        self.monitor = monitor
        self._rows: list[dict[str, float]] = []
        self._logged_step = -1
        """Of the loggers, for the epoch of the last row; -1 without one."""
        self._ends_validated = False
        """Whether there was a validation at that step, and not only earlier in the epoch."""
        self._validated_batch = -1
        self._earlier_seconds: float | None = None
        self._started = time.monotonic()
        self._validated = False

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.monotonic()
        environment = describe_environment(trainer)
        write_whole(self.directory / "environment.json", json.dumps(environment, indent=2))

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs once the epoch to go on from is known."""
        self._take_up(trainer)

    def _take_up(self, trainer: Trainer) -> None:
        """Go on with the rows and curves of the run that is resumed."""
        rows = read_metrics(self.directory / METRICS)
        self._rows = [row for row in rows if row["epoch"] < trainer.current_epoch]
        if self._rows and self._earlier_seconds is None:  # a checkpoint of before it was saved
            self._earlier_seconds = self._rows[-1].get("wall_seconds")
        if self._rows and self._logged_step >= 0 and not trainer.fit_loop.restarted_mid_epoch:
            not_logged = ("step", "wall_seconds", *(() if self._ends_validated else ("val/",)))
            logged = {n: v for n, v in self._rows[-1].items() if not n.startswith(not_logged)}
            for logger in trainer.loggers:
                logger.log_metrics(logged, self._logged_step)
                logger.save()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = not trainer.sanity_checking
        self._validated_batch = trainer.fit_loop.total_batch_idx

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = trainer.callback_metrics  # on all ranks: who reads first waits for the others' values
        if not trainer.is_global_zero:
            return
        logged = {
            name: float(value)
            for name, value in metrics.items()
            if self._validated or not name.startswith("val/")  # else they are an earlier epoch's
        }
        self._validated = False
        seconds = self._seconds
        self._logged_step = logging_step(trainer) - 1
        self._ends_validated = self._validated_batch == trainer.fit_loop.total_batch_idx
        position = {"epoch": float(trainer.current_epoch), "step": float(trainer.global_step)}
        self._rows.append({**position, **logged, "wall_seconds": seconds})
        for logger in trainer.loggers:
            logger.save()  # what was logged so far is older than the checkpoint that comes next
        write_whole(self.directory / METRICS, metrics_as_csv(self._rows))
        self._write_summary()

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs when the last checkpoint is there; the only hook of a run that had been trained to its end."""
        if not self._rows:
            self._take_up(trainer)
        if self._rows:
            self._write_summary()

    def _write_summary(self) -> None:
        summary = summarise(self._rows, self.monitor, self.directory / "checkpoints")
        write_whole(self.directory / "summary.json", json.dumps(summary, indent=2))

    @property
    def _seconds(self) -> float:
        """That the run has taken so far, the parts before it was stopped included."""
        return (self._earlier_seconds or 0.0) + time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        return {
            "logged_step": self._logged_step,
            "ends_validated": self._ends_validated,
            "wall_seconds": self._seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._logged_step, self._ends_validated = state_dict["logged_step"], state_dict["ends_validated"]
        self._earlier_seconds = state_dict["wall_seconds"]


def summarise(rows: list[dict[str, float]], monitor: str, checkpoints: Path) -> dict[str, Any]:
    """The run in one dictionary: what it reached, how fast, and where its weights are.

    Args:
        rows: one dictionary of metrics an epoch, at least one.
        monitor: the metric that says which epoch is the best; the first of equals is.
        checkpoints: the folder of ``best.ckpt`` and ``last.ckpt``.

    Returns:
        ``best`` and ``last`` (metrics, and the epoch counted from 0), ``epochs`` trained,
        ``images_per_second`` (median over the epochs), ``wall_seconds``, and ``checkpoints``.
    """
    return {
        "best": _whole_numbers(best_row(rows, monitor)),
        "last": _whole_numbers(rows[-1]),
        "epochs": len(rows),
        "images_per_second": images_per_second(rows),
        "wall_seconds": rows[-1]["wall_seconds"],
        "checkpoints": {
            name: str(path) if (path := checkpoints / f"{name}.ckpt").is_file() else None
            for name in ("best", "last")
        },
    }


def _whole_numbers(row: dict[str, float]) -> dict[str, float | int | None]:
    """Counters as int, and what JSON has no word for as null."""
    return {
        name: int(value) if name in {"epoch", "step"} else value if math.isfinite(value) else None
        for name, value in row.items()
    }


def metrics_as_csv(rows: list[dict[str, float]]) -> str:
    """All rows under the union of their columns, in order of first appearance; empty where a row has none."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_whole_numbers(row) for row in rows)
    return buffer.getvalue()


def describe_environment(trainer: Trainer) -> dict[str, Any]:
    """Command, versions, commit and hardware of this run."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": usable_cores(),
        "cpu": platform.processor() or platform.machine(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "precision": str(trainer.precision),
        "world_size": trainer.world_size,
        "git_commit": git_commit(),
    }
