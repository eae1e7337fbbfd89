"""Results as JSON files: the machine, the versions, every reading, and what follows from them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .plan import REPOSITORY

Result = dict[str, Any]


def write_result(folder: Path, result: Result) -> Path:
    """Write ``<benchmark>.json``; whoever reads it finds the old one or the new, never a part."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['benchmark']}.json"
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    part.replace(path)
    return path


def read_results(folder: Path) -> dict[str, Result]:
    """Every result in a folder by the name of its benchmark; files of another form are passed over."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and {"benchmark", "contenders", "ratios"} <= content.keys():
            found[content["benchmark"]] = content
    return found


def describe_machine(cores: int) -> dict[str, Any]:
    """What was measured on; ``cores`` is how many of it each contender had."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "cores_used": cores,
        "ram_gb": round(int((_field(Path("/proc/meminfo"), "MemTotal") or "0 kB").split()[0]) / 1e6, 1),
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def _field(path: Path, name: str) -> str | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), None)


def git_commit() -> str | None:
    """The commit of this checkout, with "-dirty" when the package or the benchmarks differ from it."""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = [*git, "status", "--porcelain", "--", "yolo_lightning", "benchmarks/*.py", "configs"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def without_places(value: Any, places: Mapping[str, str]) -> Any:
    """A copy of a JSON value whose strings name places of this machine by what they are.

    Args:
        value: made of dicts, lists and scalars.
        places: a path to the word that stands for it; of nested paths the longest is replaced first.
    """
    if isinstance(value, str):
        for path, word in sorted(places.items(), key=lambda item: -len(item[0])):
            value = value.replace(path, word)
        return value
    if isinstance(value, list):
        return [without_places(item, places) for item in value]
    if isinstance(value, dict):
        return {key: without_places(item, places) for key, item in value.items()}
    return value
