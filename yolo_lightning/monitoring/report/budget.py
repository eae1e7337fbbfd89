"""Where the time has gone: the phases of ``time_budget.json``, which add up to the wall time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from .html import Section, both, duration, table
from .markup import Child, Markup, tag
from .read import Run


@dataclass(frozen=True)
class _Phase:
    title: str
    meaning: str


PHASES = {
    "start_up": _Phase("Start-up", "imports, options, choosing the step, reading the data, the network"),
    "compilation": _Phase("Compilation", "torch.compile, by its own count"),
    "data_wait": _Phase(
        "Data wait", "between two batches; on a GPU, which works on meanwhile, an upper bound"
    ),
    "step": _Phase("Training step", "augmentation, forward, backward, optimizer"),
    "validation": _Phase("Validation", "with its own wait for data"),
    "checkpoints": _Phase("Checkpoints", "training held to save; files are written beside it"),
    "drawing": _Phase("Drawing", "training held for pictures, curves and the report"),
    "other": _Phase("Other", "ends of epochs, logging, the end of the run"),
}
"""By the key in the file, in the order of the bar."""


def section(run: Run) -> Section:
    """A stacked bar, and a table that adds up; empty without ``time_budget.json``."""
    wall, seconds = phase_seconds(run.time_budget)
    if not seconds or wall <= 0:
        return Section("time", "Time budget", Markup())
    shown = {name: value for name, value in seconds.items() if value > 0}
    pieces = (
        tag(
            "span",
            class_=f"phase {name}",
            style=f"flex-grow:{value / wall:.5f}",
            title=f"{_phase(name).title}: {duration(value)}, {value / wall:.1%}",
        )
        for name, value in shown.items()
    )
    labels = ", ".join(f"{_phase(name).title} {value / wall:.0%}" for name, value in shown.items())
    stack = tag("div", pieces, class_="stack", role="img", aria_label=labels)
    step = seconds.get("step", 0.0)
    lead = f"{step / wall:.0%} of {duration(wall)} went into training steps."
    return Section("time", "Time budget", both(stack, _table(wall, seconds)), lead)


def phase_seconds(budget: dict[str, Any]) -> tuple[float, dict[str, float]]:
    """Wall time, and seconds by phase; (0, {}) where they are not there."""
    wall, seconds = budget.get("wall_seconds"), budget.get("seconds")
    if not _is_duration(wall) or not isinstance(seconds, dict):
        return 0.0, {}
    known = {name: float(value) for name, value in seconds.items() if _is_duration(value)}
    return float(wall), {name: known[name] for name in dict.fromkeys([*PHASES, *known]) if name in known}


def _is_duration(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and 0 <= value < 1e12


def _phase(name: str) -> _Phase:
    return PHASES.get(name) or _Phase(name.replace("_", " ").capitalize(), "")


def _table(wall: float, seconds: dict[str, float]) -> Markup:
    tenths = add_up([10 * value for value in seconds.values()])
    rows: list[Sequence[Child]] = [
        [
            both(tag("i", class_=f"key phase {name}"), _phase(name).title),
            f"{tenth / 10:.1f}",
            f"{value / wall:.1%}",
            tag("span", _phase(name).meaning, class_="note"),
        ]
        for (name, value), tenth in zip(seconds.items(), tenths, strict=True)
    ]
    total = sum(seconds.values())
    foot: list[Child] = [
        "Together",
        f"{sum(tenths) / 10:.1f}",
        f"{total / wall:.1%}",
        tag("span", f"of {wall:.1f} s on the clock", class_="note"),
    ]
    return table(["", "seconds", "share", ""], rows, foot, kind="budget")


def add_up(values: Sequence[float]) -> list[int]:
    """Whole numbers that add up to the rounded sum; each is one of the two next to its value."""
    floors = [math.floor(value) for value in values]
    missing = round(sum(values)) - sum(floors)
    by_rest = sorted(range(len(values)), key=lambda i: floors[i] - values[i])
    for i in by_rest[:missing]:
        floors[i] += 1
    return floors
