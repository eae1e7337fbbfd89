"""The record of a run: metrics and summary, whole after every epoch, its options and its environment."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

from ..system.cores import usable_cores
from ..system.environment import PACKAGES, git_commit, package_version
from ..system.files import write_whole
from ..system.lightning_internals import logging_step
from ..training.contracts import detection_module
from .best_epoch import MONITOR, best_row
from .directory import METRICS, images_per_second, read_metrics
from .run_config import CONFIG, NOT_KEPT


class RunRecorder(Checkpoint):
    """Writes a row for each epoch to ``metrics.csv`` and the state of the run to ``summary.json``.

    A run that resumes keeps the rows of earlier epochs and drops those of epochs that it trains again. On
    resume the last kept row is logged again: it was written after its checkpoint, and TensorBoard drops
    events later than that checkpoint (``Resumption.purge_step``).

    This class is a ``Checkpoint`` because Lightning calls those after all other callbacks, when everything is
    logged. It is listed before the callbacks that save, so that every saved epoch has its row.

    Args:
        directory: the run directory.
        monitor: metric that chooses the best epoch.
    """

    def __init__(self, directory: str | Path, monitor: str = MONITOR) -> None:
        self.directory = Path(directory)
        self.monitor = monitor
        self._rows: list[dict[str, float]] = []
        self._logged_step = -1  # logger step of the last row; -1 if there is none
        self._ends_validated = False  # true if a validation ended at that step, not only earlier in the epoch
        self._earlier_seconds = 0.0  # wall time of the run before it was resumed
        self._started = time.monotonic()
        self._validated_batch: int | None = None  # batch at which the last validation of this epoch ended

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.monotonic()
        environment = describe_environment(trainer)
        write_whole(self.directory / "environment.json", json.dumps(environment, indent=2))

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue the rows and curves of the run that is resumed; its epoch is known only now."""
        rows = read_metrics(self.directory / METRICS)
        self._rows = [row for row in rows if row["epoch"] < trainer.current_epoch]
        if self._rows and self._logged_step >= 0 and not trainer.fit_loop.restarted_mid_epoch:
            not_logged = ("step", "wall_seconds", *(() if self._ends_validated else ("val/",)))
            logged = {n: v for n, v in self._rows[-1].items() if not n.startswith(not_logged)}
            for logger in trainer.loggers:
                logger.log_metrics(logged, self._logged_step)
                logger.save()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validated_batch = trainer.fit_loop.total_batch_idx

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = trainer.callback_metrics  # on all ranks: reading it is a collective
        if not trainer.is_global_zero:
            return
        logged = {
            name: float(value)
            for name, value in metrics.items()
            if self._validated_batch is not None or not name.startswith("val/")  # of an earlier epoch
        }
        self._logged_step = logging_step(trainer) - 1
        self._ends_validated = self._validated_batch == trainer.fit_loop.total_batch_idx
        self._validated_batch = None
        position = {"epoch": float(trainer.current_epoch), "step": float(trainer.global_step)}
        self._rows.append({**position, **logged, "wall_seconds": self._seconds})
        for logger in trainer.loggers:
            logger.save()  # the checkpoint that comes next is newer than what was logged
        write_whole(self.directory / METRICS, metrics_as_csv(self._rows))
        self._write_summary()

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the last checkpoint in the summary; runs also when the resumed run was already complete."""
        if not self._rows:
            self.on_train_start(trainer, pl_module)
        if self._rows:
            self._write_summary()

    def _write_summary(self) -> None:
        summary = summarise(self._rows, self.directory / "checkpoints", self.monitor)
        write_whole(self.directory / "summary.json", json.dumps(summary, indent=2))

    @property
    def _seconds(self) -> float:
        """Wall time of the run so far, including its parts before it was resumed."""
        return self._earlier_seconds + time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        return {
            "logged_step": self._logged_step,
            "ends_validated": self._ends_validated,
            "wall_seconds": self._seconds,
            "monitor": self.monitor,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._logged_step, self._ends_validated = state_dict["logged_step"], state_dict["ends_validated"]
        self._earlier_seconds = state_dict["wall_seconds"]


class _Dumper(yaml.SafeDumper):
    """Quotes texts such as 1e3, the name of a class: a number for jsonargparse, but not for YAML 1.1."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


class SaveConfig(SaveConfigCallback):
    """Writes the options that really ran, so that ``--config RUN/config.yaml`` runs them again."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            self._write(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module)  # not earlier: a resumption that fails must leave the old one

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            config = self.config.clone()
            if module := detection_module(pl_module):
                config.model.anchors = module.anchors  # which auto-anchor may have found
            for name in NOT_KEPT & vars(config).keys():
                del config[name]
            text = self.parser.dump(config, skip_none=False, skip_validation=True)
            # ASCII, because jsonargparse reads it in the encoding of whatever locale there is then.
            text = yaml.dump(yaml.safe_load(text), Dumper=_Dumper, sort_keys=False)
            write_whole(Path(trainer.default_root_dir, CONFIG), text)


def summarise(rows: list[dict[str, float]], checkpoints: Path, monitor: str = MONITOR) -> dict[str, Any]:
    """Metrics, speed and checkpoints of a run; ``rows`` has the metrics of each epoch, and at least one."""
    return {
        "monitor": monitor,
        "best": _whole_numbers(best_row(rows, monitor)),
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


def plain_cell(text: str) -> str:
    """A text for a cell of CSV: a spreadsheet would compute one that begins like a formula."""
    return f"'{text}" if text[:1] in set("=+-@\t\r\n") else text


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table of some columns of the rows; empty where a row has none."""
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, extrasaction="ignore", lineterminator="\n")
    for row in ({name: name for name in columns}, *rows):
        writer.writerow({name: plain_cell(v) if isinstance(v, str) else v for name, v in row.items()})
    return table.getvalue()


def metrics_as_csv(rows: list[dict[str, float]]) -> str:
    """All rows under the union of their columns, in order of first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return as_csv(columns, map(_whole_numbers, rows))


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
