"""The files of a run directory, read into one object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...evaluation.image_matches import MATCHES, ImageMatches
from ...runs.best_epoch import MONITOR, best_row
from ...runs.directory import METRICS, read_metrics, versions
from ...runs.run_config import CONFIG
from ...runs.run_files import read_bytes, read_content
from ..pictures.plots import EVALUATION, Evaluation

Row = dict[str, float]
"""The metrics of an epoch, by name, without those that are not finite."""
_PICTURES = ("augmented.jpg", "predictions.jpg", "worst.jpg", "labels.png")


@dataclass(frozen=True)
class Run:
    """A run as its files describe it; files that are missing leave their attribute empty."""

    directory: Path
    """Absolute."""
    rows: list[Row]
    """One per epoch, at least one."""
    evaluation: Evaluation | None
    matches: ImageMatches | None
    environment: dict[str, Any]
    config: dict[str, Any]
    gpus: list[dict[str, Any]]
    """The records of ``gpu_health.json``, one per GPU."""
    time_budget: dict[str, Any]
    pictures: dict[str, bytes]
    """Images of ``pictures/`` by name."""
    unreadable: list[str]
    """Names of files that exist but cannot be read: damaged ones and links."""
    monitor: str = MONITOR
    """Metric that chooses the best epoch."""

    @property
    def name(self) -> str:
        """Such as ``fit/version_0``."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def best(self) -> Row:
        """The row of the best epoch; the last row if no epoch was validated."""
        return best_row(self.rows, self.monitor)

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

    def checkpoint(self, name: str) -> Path | None:
        """Path of the checkpoint ``best`` or ``last``; None if there is no such file."""
        path = self.directory / "checkpoints" / f"{name}.ckpt"
        return path if path.is_file() else None


def read_run(directory: str | Path) -> Run:
    """Read the files of a run directory; all but ``metrics.csv`` may be missing.

    Raises:
        InputError: there is no ``metrics.csv`` that can be read and holds an epoch.
    """
    directory = Path(directory).absolute()
    path = directory / METRICS
    # A test is shown as a validation is. Matplotlib fails near the end of floats.
    rows = [
        {name.replace("test/", "val/"): x for name, x in row.items() if abs(x) < 1e300}
        for row in read_metrics(path)
    ]
    if not rows:
        raise InputError(f"{path}: {'holds no epoch' if path.exists() else 'is missing'}; give a trained run")
    unreadable: list[str] = []

    def read(
        name: str, convert: Callable[[Any], Any] = dict, open_file: Callable[[Path, str], Any] = read_content
    ) -> Any:
        try:
            content = open_file(directory, name)
            return None if content is None else convert(content)
        except (AttributeError, KeyError, TypeError, ValueError):
            unreadable.append(name)
        return None

    return Run(
        directory=directory,
        rows=rows,
        evaluation=read(EVALUATION, Evaluation.from_json),
        matches=read(MATCHES, ImageMatches.from_bytes, read_bytes),
        environment=read("environment.json") or {},
        config=read(CONFIG) or {},
        gpus=(read("gpu_health.json") or {}).get("devices", []),
        time_budget=read("time_budget.json") or {},
        pictures={name: found for name in _PICTURES if (found := read(f"pictures/{name}", bytes))},
        unreadable=unreadable,
        monitor=(read("summary.json") or {}).get("monitor", MONITOR),
    )


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
