"""The record of a run: metrics.csv and summary.json, whole after every epoch, and environment.json."""

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
from ..system.environment import PACKAGES, git_commit, package_version
from ..system.files import write_whole
from ..system.lightning_internals import logging_step
from .best_epoch import best_row
from .checkpoint_format import RUN_RECORDER
from .directory import METRICS, images_per_second, read_metrics


class RunRecorder(Checkpoint):
    """Writes a row for each epoch to ``metrics.csv`` and the state of the run to ``summary.json``.

    A run that resumes keeps the rows of earlier epochs and drops those of epochs that it trains again. On
    resume the last kept row is logged again: it was written after its checkpoint, and TensorBoard drops
    events later than that checkpoint (``Resumption.purge_step``).

    This class is a ``Checkpoint`` because Lightning calls those after all other callbacks, when everything is
    logged. It is listed before the callbacks that save, so that every saved epoch has its row.

    Args:
        directory: the run directory.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._rows: list[dict[str, float]] = []
        self._logged_step = -1
        """Logger step of the last row; -1 if there is none."""
        self._ends_validated = False
        """True if a validation ended at that step, not only earlier in the epoch."""
        self._validated_batch = -1
        self._earlier_seconds: float | None = None
        """Wall time of the run before it was resumed."""
        self._started = time.monotonic()
        self._validated = False

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.monotonic()
        environment = describe_environment(trainer)
        write_whole(self.directory / "environment.json", json.dumps(environment, indent=2))

    @property
    def state_key(self) -> str:
        return RUN_RECORDER

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._continue_record(trainer)  # not earlier: the epoch to continue with is known only now

    def _continue_record(self, trainer: Trainer) -> None:
        """Continue the rows and curves of the run that is resumed."""
        rows = read_metrics(self.directory / METRICS)
        self._rows = [row for row in rows if row["epoch"] < trainer.current_epoch]
        if self._rows and self._earlier_seconds is None:  # a checkpoint without it
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
        metrics = trainer.callback_metrics  # on all ranks: reading it is a collective
        if not trainer.is_global_zero:
            return
        logged = {
            name: float(value)
            for name, value in metrics.items()
            if self._validated or not name.startswith("val/")  # otherwise of an earlier epoch
        }
        self._validated = False
        seconds = self._seconds
        self._logged_step = logging_step(trainer) - 1
        self._ends_validated = self._validated_batch == trainer.fit_loop.total_batch_idx
        position = {"epoch": float(trainer.current_epoch), "step": float(trainer.global_step)}
        self._rows.append({**position, **logged, "wall_seconds": seconds})
        for logger in trainer.loggers:
            logger.save()  # the checkpoint that comes next is newer than what was logged
        write_whole(self.directory / METRICS, metrics_as_csv(self._rows))
        self._write_summary()

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the last checkpoint in the summary; runs also when the resumed run was already complete."""
        if not self._rows:
            self._continue_record(trainer)
        if self._rows:
            self._write_summary()

    def _write_summary(self) -> None:
        summary = summarise(self._rows, self.directory / "checkpoints")
        write_whole(self.directory / "summary.json", json.dumps(summary, indent=2))

    @property
    def _seconds(self) -> float:
        """Wall time of the run so far, including its parts before it was resumed."""
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


def summarise(rows: list[dict[str, float]], checkpoints: Path) -> dict[str, Any]:
    """Summarise a run: its metrics, its speed and its checkpoints.

    Args:
        rows: one dictionary of metrics an epoch, at least one.
        checkpoints: the folder of ``best.ckpt`` and ``last.ckpt``.

    Returns:
        ``best`` and ``last`` (metrics, and the epoch counted from 0), ``epochs`` trained,
        ``images_per_second`` (median over the epochs), ``wall_seconds``, and ``checkpoints``.
    """
    return {
        "best": _whole_numbers(best_row(rows)),
        "last": _whole_numbers(rows[-1]),
        "epochs": len(rows),
        "images_per_second": images_per_second(rows),
        "wall_seconds": rows[-1].get("wall_seconds"),
        "checkpoints": {
            name: str(path) if (path := checkpoints / f"{name}.ckpt").is_file() else None
            for name in ("best", "last")
        },
    }


def _whole_numbers(row: dict[str, float]) -> dict[str, float | int | None]:
    """Counters as int, and values that JSON lacks as null."""
    return {
        name: int(value) if name in {"epoch", "step"} else value if math.isfinite(value) else None
        for name, value in row.items()
    }


def metrics_as_csv(rows: list[dict[str, float]]) -> str:
    """All rows under the union of their columns, in order of first appearance; empty where a row has none."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    # A spreadsheet would compute a name that begins like a formula.
    writer.writerow({name: f"'{name}" if name[:1] in set("=+-@\t\r\n") else name for name in columns})
    writer.writerows(_whole_numbers(row) for row in rows)
    return buffer.getvalue()


def describe_environment(trainer: Trainer) -> dict[str, Any]:
    """Command, versions, commit and hardware of this run."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "packages": {name: package_version(name) for name in PACKAGES},
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
