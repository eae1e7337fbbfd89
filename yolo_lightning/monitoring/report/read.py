"""The files of a run directory, read into one object."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...errors import InputError
from ...runs.best_epoch import best_row
from ...runs.directory import METRICS, read_metrics, versions
from ...runs.run_config import CONFIG
from ..pictures.plots import EVALUATION, Evaluation

Row = dict[str, float]
"""The metrics of an epoch, by name, without those that are not finite."""


@dataclass(frozen=True)
class Run:
    """A run as its files describe it; files that are missing leave their attribute empty."""

    directory: Path
    """Absolute."""
    rows: list[Row]
    """One per epoch, at least one."""
    evaluation: Evaluation | None
    environment: dict[str, Any]
    config: dict[str, Any]
    gpu_health: dict[str, Any]
    time_budget: dict[str, Any]
    unreadable: list[str]
    """Names of files that exist but cannot be read."""

    @property
    def name(self) -> str:
        """Such as ``fit/version_0``."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def best(self) -> Row:
        """The first row with the highest ``val/map``; the last row if no epoch was validated."""
        return best_row(self.rows)

    @property
    def last(self) -> Row:
        """The newest row."""
        return self.rows[-1]

    def option(self, name: str) -> Any:
        """An option of the configuration by its dotted name; None if it is missing."""
        value: Any = self.config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    @property
    def gpus(self) -> list[dict[str, Any]]:
        """The records of ``gpu_health.json``, one per GPU."""
        return list(self.gpu_health.get("devices", []))

    def checkpoint(self, name: str) -> Path | None:
        """Path of the checkpoint ``best`` or ``last``; None if there is no such file."""
        path = self.directory / "checkpoints" / f"{name}.ckpt"
        return path if path.is_file() else None


def read_run(directory: str | Path) -> Run:
    """Read the files of a run directory; all but ``metrics.csv`` may be missing.

    Raises:
        InputError: there is no ``metrics.csv`` that holds an epoch.
    """
    directory = Path(directory).absolute()
    rows = _read_rows(directory / METRICS)
    unreadable: list[str] = []

    def read(name: str, convert: Callable[[Any], Any] = dict) -> Any:
        path = directory / name
        if path.is_file():
            try:
                text = path.read_text(encoding="utf-8")
                return convert(yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text))
            except (OSError, AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError):
                unreadable.append(name)
        return None

    return Run(
        directory=directory,
        rows=rows,
        evaluation=read(EVALUATION, Evaluation.from_json),
        environment=read("environment.json") or {},
        config=read(CONFIG) or {},
        gpu_health=read("gpu_health.json") or {},
        time_budget=read("time_budget.json") or {},
        unreadable=unreadable,
    )


def _read_rows(path: Path) -> list[Row]:
    if not path.is_file():
        raise InputError(f"{path}: is missing; give a run that has trained an epoch")
    try:
        rows = read_metrics(path)
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table of metrics ({error})") from None
    kept = [{name: value for name, value in row.items() if math.isfinite(value)} for row in rows]
    if not kept or any("epoch" not in row for row in kept):
        raise InputError(f"{path}: holds no epoch; give a run that has trained one")
    return kept


def find_run(run: str, runs_dir: str | Path = "runs") -> Path:
    """The run directory with this path, or with this name in ``runs_dir``.

    A folder of versions, such as ``runs/fit`` or the name ``fit``, means its newest version that has
    trained an epoch.

    Raises:
        InputError: there is no such run.
    """
    folders = (Path(run).expanduser(), Path(runs_dir).expanduser() / run)
    for folder in folders:
        if (folder / METRICS).is_file():
            return folder
        trained = [version for version in versions(folder) if (version[1] / METRICS).is_file()]
        if trained:
            return max(trained)[1]
    if any(folder.is_dir() for folder in folders):
        raise InputError(f"{run}: has no {METRICS}; give a run that has trained an epoch")
    raise InputError(f"{run}: there is no such run, neither as a folder nor in {runs_dir}; give one of them")
