"""The phases of ``time_budget.json``, which add up to the wall time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

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


@dataclass(frozen=True)
class Phase:
    """The time of one phase."""

    key: str
    title: str
    meaning: str
    seconds: float
    tenths: int
    """Tenths of a second, rounded so that the phases add up to their rounded sum."""


def phases(budget: dict[str, Any]) -> list[Phase]:
    """The phases of a time budget; none if it has no durations."""
    seconds = phase_seconds(budget)
    tenths = add_up([10 * value for value in seconds.values()])
    return [
        Phase(key, *PHASES.get(key, (key.replace("_", " ").capitalize(), "")), value, tenth)
        for (key, value), tenth in zip(seconds.items(), tenths, strict=True)
    ]


def phase_seconds(budget: dict[str, Any]) -> dict[str, float]:
    """Seconds by phase, the known phases first; empty without a wall time."""
    wall, seconds = budget.get("wall_seconds"), budget.get("seconds")
    if not _is_duration(wall) or wall == 0 or not isinstance(seconds, dict):
        return {}
    return {key: float(seconds[key]) for key in {**PHASES, **seconds} if _is_duration(seconds.get(key))}


def _is_duration(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and 0 <= value < 1e12


def add_up(values: Sequence[float]) -> list[int]:
    """Round each value up or down, so that the sum is the rounded sum."""
    floors = [math.floor(value) for value in values]
    missing = round(sum(values)) - sum(floors)
    by_rest = sorted(range(len(values)), key=lambda i: floors[i] - values[i])
    for i in by_rest[:missing]:
        floors[i] += 1
    return floors
