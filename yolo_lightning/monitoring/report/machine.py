"""On what a run was trained: hardware, versions, the health of the GPUs, and its configuration."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from .html import Section, both, details, table
from .markup import Child, tag
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
"""Endings of keys, the longest first."""
_STATISTIC = {"mean", "min", "max"}
_HEALTH_LEAD = "Means, with the least and the most in brackets."
_APART = {"faults", "index"}
"""What is told above the table."""


def section(run: Run) -> Section:
    """Hardware and versions of ``environment.json``, and the configuration, folded."""
    environment = run.environment
    rows: list[Sequence[Child]] = [
        [label, _written(environment[key])]
        for key, label in _LABELS.items()
        if environment.get(key) not in (None, [], "")
    ]
    packages = environment.get("packages")
    if isinstance(packages, dict):
        rows += [[str(name), str(version)] for name, version in packages.items() if version]
    command = environment.get("command")
    if isinstance(command, list):
        rows.append(["Command", tag("code", shlex.join(map(str, command)))])
    parts = [table([], rows, kind="facts")] if rows else []
    if run.config:
        text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        parts.append(details("The configuration that ran", tag("pre", text)))
    return Section("machine", "Hardware and versions", both(*parts))


def health(run: Run) -> Section:
    """What ``gpu_health.json`` says, device by device; empty without it."""
    devices = _devices(run.gpu_health)
    keys = list(dict.fromkeys(key for device in devices for key in device if key not in _APART))
    rows: list[Sequence[Child]] = [
        [_label(key), *(_written(device.get(key)) for device in devices)]
        for key in keys
        if any(device.get(key) not in (None, {}, []) for device in devices)
    ]
    head = ["", *(_title(device, i) for i, device in enumerate(devices))]
    faults = [tag("div", _written(device.get("faults")), class_="fault") for device in devices]
    body = both(faults, table(head, rows, kind="facts options") if rows else None) if devices else both()
    return Section("health", "GPU health", body, _HEALTH_LEAD if body else None)


def _devices(found: dict[str, Any]) -> list[dict[str, Any]]:
    devices = found.get("devices", [])
    return [device for device in devices if isinstance(device, dict)] if isinstance(devices, list) else []


def _title(device: dict[str, Any], place: int) -> str:
    return f"GPU {device.get('index', place)}"


def _label(key: str) -> str:
    """``power_w`` -> power, W."""
    for suffix, unit in _UNITS.items():
        if key.endswith(suffix):
            return f"{key.removesuffix(suffix).replace('_', ' ')}, {unit}"
    return key.replace("_", " ")


def _written(value: object) -> Child:
    """A value of JSON as text: lists line by line, statistics in a line, else name and value."""
    if isinstance(value, dict):
        if value.keys() >= _STATISTIC:
            return f"{_written(value['mean'])} ({_written(value['min'])} to {_written(value['max'])})"
        return [tag("div", f"{_label(str(key))}: ", _written(inner)) for key, inner in value.items()]
    if isinstance(value, list):
        return [tag("div", _written(inner)) for inner in value]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)
