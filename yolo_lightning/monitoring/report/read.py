"""Reads what a run has left in its directory."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ...errors import InputError
from ...runs.directory import CONFIG, METRICS, best_row, read_metrics, versions

_PICTURES = (".jpg", ".jpeg", ".png")

Row = dict[str, float]
"""The metrics of an epoch, by name; NaN is left out."""


@dataclass(frozen=True)
class Run:
    """A run, as its files tell it. What is not there is empty."""

    directory: Path
    """Absolute."""
    rows: list[Row]
    """One an epoch, at least one."""
    summary: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    gpu_health: dict[str, Any] = field(default_factory=dict)
    time_budget: dict[str, Any] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    """Names of files that are there but are not what they should be."""

    @property
    def name(self) -> str:
        """Such as ``fit/version_0``."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def best(self) -> Row:
        """The row with the greatest ``val/map``, the first of equals; the last row where none has one."""
        return best_row(self.rows)

    @property
    def last(self) -> Row:
        """The newest row."""
        return self.rows[-1]

    def option(self, name: str) -> Any:
        """An option of the configuration by its dotted name; None where it is not there."""
        value: Any = self.config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def checkpoint(self, name: str) -> Path | None:
        """``best`` or ``last``, if it is there."""
        path = self.directory / "checkpoints" / f"{name}.ckpt"
        return path if path.is_file() else None


def read_run(directory: str | Path) -> Run:
    """Read the files of a run directory; any but ``metrics.csv`` may be missing.

    Raises:
        InputError: there is no ``metrics.csv`` that holds an epoch.
    """
    directory = Path(directory).absolute()
    rows = _read_rows(directory / METRICS)
    unreadable: list[str] = []

    def read(name: str) -> dict[str, Any]:
        path = directory / name
        if not path.is_file():
            return {}
        try:
            text = path.read_text(encoding="utf-8")
            content = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
        except (OSError, ValueError, yaml.YAMLError):
            content = None
        if isinstance(content, dict):
            return content
        unreadable.append(name)
        return {}

    pictures = sorted(path for path in directory.glob("pictures/*") if path.suffix in _PICTURES)
    return Run(
        directory=directory,
        rows=rows,
        summary=read("summary.json"),
        environment=read("environment.json"),
        config=read(CONFIG),
        evaluation=read("evaluation.json"),
        gpu_health=read("gpu_health.json"),
        time_budget=read("time_budget.json"),
        pictures=pictures,
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
    """The directory that is meant by a path, or by a name of ``runs_dir``.

    A folder of versions, such as ``runs/fit`` or the name ``fit``, means the newest that has trained an
    epoch.

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
