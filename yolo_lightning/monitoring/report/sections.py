"""Texts and tables of a report: the outcome of a run, its time, its machine, and how to continue."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...model.architecture import short_name
from ..metric_names import NOTHING
from .read import Row, Run

_OF_CLASS = "val/map_class/"
_MOST_CLASSES, _WEAKEST = 20, 10
"""Most classes in an open table; of more, the weakest."""
ClassScores = tuple[str, list[float | None]]
"""Name of a class; its average precision at IoU 0.50 to 0.95, then, if known, that at IoU 0.50, and
precision, recall and F1 at the best confidence."""
PHASES = {
    "start_up": ("Start-up", "imports, options, choosing the step, reading the data, the network"),
    "compilation": ("Compilation", "torch.compile, by its own count"),
    "data_wait": ("Data wait", "between two batches; an upper bound on a GPU, which works meanwhile"),
    "step": ("Training step", "augmentation, forward, backward, optimizer"),
    "validation": ("Validation", "with its own wait for data"),
    "checkpoints": ("Checkpoints", "training held to save; files are written in the background"),
    "drawing": ("Drawing", "training held for pictures, curves and the report"),
    "other": ("Other", "ends of epochs, logging, the end of the run"),
}
"""Title and meaning by the key in the file, in the order of the page."""
_LABELS = {
    "gpus": "GPUs",
    "cuda": "CUDA",
    "cpu": "CPU",
    "cpu_count": "CPU cores",
    "precision": "Precision",
    "world_size": "Processes",
    "platform": "System",
    "python": "Python",
    "git_commit": "Commit",
    "started": "Started",
}
_UNITS = {"_mb_s": "MB/s", "_mb": "MB", "_mhz": "MHz", "_w": "W", "_c": "°C", "_seconds": "s", "_s": "s",
          "_percent": "%"}  # fmt: skip
"""Units by the ending of a key, the longest ending first."""


def class_scores(run: Run) -> list[ClassScores]:
    """Scores of each class at the best epoch, in the order of the classes."""
    precisions = class_average_precisions(run.best)
    table: dict[str, list[float | None]] = {name: [value] for name, value in precisions.items()}
    found = run.evaluation
    if found is not None and found.best_confidence is not None:
        at = abs(found.confidence - found.best_confidence).argmin()
        for label, name in enumerate(found.class_names):
            figures = [float(curve[label, at]) for curve in (found.precision, found.recall, found.f1)]
            table[name] = [precisions.get(name), float(found.ap_50[label]), *figures]
    return list(table.items())


def weakest(classes: list[ClassScores]) -> list[ClassScores]:
    """The classes with the lowest average precision; none if all classes have room on the page."""
    if len(classes) <= _MOST_CLASSES:
        return []
    known = [(name, scores) for name, scores in classes if scores[0] is not None and scores[0] >= 0]
    return sorted(known, key=lambda row: row[1][0] or 0.0)[:_WEAKEST]


def class_average_precisions(row: Row) -> dict[str, float]:
    """Average precision at IoU 0.50 to 0.95, by the name of the class."""
    return {name.removeprefix(_OF_CLASS): row[name] for name in row if name.startswith(_OF_CLASS)}


def described(run: Run) -> str:
    """Network, data, hardware and start of a run, in a line."""
    size, batch = run.option("data.image_size"), run.option("data.batch_size")
    parts = [
        short_name(str(run.option("model.architecture") or "")),
        run.option("data.root"),
        f"{size} px" if size else None,
        f"batch {batch}" if batch else None,
        run.environment.get("precision"),
        _hardware(run),
        str(run.environment.get("started", "")).replace("T", " ")[:16],
    ]
    return "  ·  ".join(str(part) for part in parts if part)


def _hardware(run: Run) -> str | None:
    """The hardware in use: ``gpus`` lists all of the machine, and each process has one of them."""
    gpus, processes, cores = (run.environment.get(key) for key in ("gpus", "world_size", "cpu_count"))
    if gpus and run.option("trainer.accelerator") != "cpu":
        return f"{processes} × {gpus[0]}" if (processes or 1) > 1 else str(gpus[0])
    return f"{cores} CPU cores" if cores else None


def wall_seconds(run: Run) -> float | None:
    """Duration of a run from its time budget, else from its last row."""
    return run.time_budget.get("wall_seconds", run.last.get("wall_seconds"))


def _planned_epochs(run: Run) -> int:
    return 0 if run.option("deadline") else run.option("trainer.max_epochs") or 0


def epochs_text(run: Run) -> str:
    """Trained and planned epochs, such as ``30 of 30``; a run with a deadline has planned none.

    A validation or test has trained none.
    """
    if "wall_seconds" not in run.last:
        return NOTHING
    trained, planned = int(run.last["epoch"]) + 1, _planned_epochs(run)
    return f"{trained} of {planned}" if planned > 0 else str(trained)


class Phase(NamedTuple):
    """The time of one phase."""

    key: str
    title: str
    meaning: str
    seconds: float
    shown_s: float
    """Seconds, rounded to tenths so that the phases add up to their rounded sum."""


def phases(budget: dict[str, Any]) -> list[Phase]:
    """The phases of ``time_budget.json``, which add up to the wall time; none if it has no durations."""
    seconds = phase_seconds(budget) if budget.get("wall_seconds", 0) > 0 else {}
    shown = np.diff(np.rint(10 * np.cumsum([0.0, *seconds.values()]))) / 10
    return [
        Phase(key, *PHASES.get(key, (key.replace("_", " ").capitalize(), "")), value, float(rounded))
        for (key, value), rounded in zip(seconds.items(), shown, strict=True)
    ]


def phase_seconds(budget: dict[str, Any]) -> dict[str, float]:
    """Seconds by phase, the known phases first."""
    seconds: dict[str, float] = budget.get("seconds", {})
    return {key: seconds[key] for key in {**PHASES, **seconds} if key in seconds}


def facts(run: Run) -> list[tuple[str, list[str]]]:
    """Name and lines of each fact in ``environment.json``."""
    found = run.environment
    rows = [(label, lines(found[key])) for key, label in _LABELS.items() if _is_told(found.get(key))]
    rows += [(name, [version]) for name, version in found.get("packages", {}).items() if version]
    if "command" in found:
        rows.append(("Command", [shlex.join(found["command"])]))
    return rows


def gpu_table(devices: list[dict[str, Any]]) -> list[list[Any]]:
    """The head and the rows of a table with a column for each GPU; a cell is a list of lines."""
    keys = dict.fromkeys(key for device in devices for key in device if key not in ("faults", "index"))
    told = [key for key in keys if any(_is_told(device.get(key)) for device in devices)]
    head = ["", *(f"GPU {device.get('index', place)}" for place, device in enumerate(devices))]
    rows = [[_label(key), [lines(device.get(key)) for device in devices]] for key in told]
    return [head, *rows] if devices else []


def _is_told(value: object) -> bool:
    return value not in (None, "", [], {})


def _label(key: str) -> str:
    """``power_w`` -> power, W."""
    for suffix, unit in _UNITS.items():
        if key.endswith(suffix):
            return f"{key.removesuffix(suffix).replace('_', ' ')}, {unit}"
    return key.replace("_", " ")


def lines(value: object) -> list[str]:
    """A JSON value as lines of text: one a list item, one a key, one a statistic."""
    if isinstance(value, dict):
        if value.keys() >= {"mean", "min", "max"}:
            mean, least, most = (_text(value[key]) for key in ("mean", "min", "max"))
            return [f"{mean} ({least} to {most})"]
        return [f"{_label(str(key))}: {_text(inner)}" for key, inner in value.items()]
    if isinstance(value, list):
        return [line for inner in value for line in lines(inner)]
    return [] if value is None else [_text(value)]


def _text(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return ", ".join(lines(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)


def commands(run: Run) -> Iterator[tuple[str, str]]:
    """(purpose, command) with the paths of this run, quoted for a shell."""
    best, last = run.checkpoint("best"), run.checkpoint("last")
    epochs, trained = _planned_epochs(run), int(run.last["epoch"]) + 1
    if last:
        if run.option("deadline"):
            longer = _command("fit", "--ckpt_path", last, "--deadline", "TIME")
            yield "Train longer, until a later deadline for all parts together", longer
        if 0 < epochs <= trained:
            longer = _command("fit", "--ckpt_path", last, "--trainer.max_epochs", 2 * epochs)
            yield f"Train longer, to {2 * epochs} epochs", longer
        else:
            yield "Resume where it stopped", _command("fit", "--ckpt_path", last)
    weights = best or last
    if weights:
        yield "Validate", _command("validate", "--ckpt_path", weights)
        predict = _command("predict", "--ckpt_path", weights, "--data.predict_source", "PHOTOS")
        yield "Find objects in PHOTOS, a picture or a folder", predict
    if run.config:
        yield "Train again with the same options", _command("fit", "--config", run.directory / "config.yaml")
    yield "Show the curves in TensorBoard", f"tensorboard --logdir {shlex.quote(str(run.directory))}"
    yield "Write this report again", _command("report", run.directory)


def _command(*words: str | int | Path) -> str:
    return shlex.join(["yolo-lightning", *map(str, words)])
