"""The machine of a run: hardware, versions, and the health of its GPUs."""

from __future__ import annotations

import shlex
from typing import Any

from .read import Run

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
_STATISTIC = {"mean", "min", "max"}
_APART = {"faults", "index"}
"""Keys that are not rows of the table."""


def facts(run: Run) -> list[tuple[str, list[str]]]:
    """Name and lines of each fact in ``environment.json``."""
    found = run.environment
    rows = [(label, lines(found[key])) for key, label in _LABELS.items() if _is_told(found.get(key))]
    packages = found.get("packages")
    if isinstance(packages, dict):
        rows += [(str(name), [str(version)]) for name, version in packages.items() if version]
    if isinstance(found.get("command"), list):
        rows.append(("Command", [shlex.join(map(str, found["command"]))]))
    return rows


def gpu_table(devices: list[dict[str, Any]]) -> list[list[Any]]:
    """The head and the rows of a table with a column for each GPU; a cell is a list of lines."""
    keys = dict.fromkeys(key for device in devices for key in device if key not in _APART)
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
        if value.keys() >= _STATISTIC:
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
