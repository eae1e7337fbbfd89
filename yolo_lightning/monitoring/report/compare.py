"""Runs side by side: what was set differently, and what came of it."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...runs.directory import images_per_second
from .budget import PHASES, phase_seconds
from .html import NOTHING, duration, number
from .outcome import MAP, MAP_50, class_scores, epochs_text, wall_seconds
from .read import Run

NOT_OPTIONS = {"run_name", "runs_dir", "trainer.default_root_dir"}
"""Where a run lies, which says nothing of how it trained."""
_ENVIRONMENT = ("gpus", "cuda", "cpu", "cpu_count", "precision", "world_size", "python", "git_commit")
_WIDEST = 40
"""Letters of a value in the terminal."""

Better = Literal["high", "low"]


@dataclass(frozen=True)
class Line:
    """A figure of every run."""

    name: str
    texts: list[str]
    best: list[bool]
    """Which runs have the best of these figures; none where all are alike, or none is better."""


@dataclass(frozen=True)
class Comparison:
    """What differs between runs."""

    names: list[str]
    options: list[tuple[str, list[str]]]
    """Dotted option, and its value in each run: those that are not the same in all."""
    machine: list[tuple[str, list[str]]]
    """The same of hardware and versions."""
    metrics: list[Line]
    speed: list[Line]


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Compare runs, in the order given."""
    return Comparison(
        names=short_names(runs),
        options=differences([_options(run.config) for run in runs]),
        machine=differences([_machine(run.environment) for run in runs]),
        metrics=_metrics(runs),
        speed=_speed(runs),
    )


def short_names(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its last folders, as many as tell them apart."""
    directories = [run.directory for run in runs]
    for depth in itertools.count(2):
        names = ["/".join(path.parts[-depth:]) for path in directories]
        if len(set(names)) == len(set(directories)):
            break
    return names


def flatten(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options by dotted name: {a: {b: 1}} -> {a.b: 1}."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def differences(runs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Names whose values are not the same in all runs, with the value of each; a dash where it has none."""
    names = list(dict.fromkeys(name for run in runs for name in run))
    texts = {name: [_text(run[name]) if name in run else NOTHING for run in runs] for name in names}
    return [(name, values) for name, values in texts.items() if len(set(values)) > 1]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _options(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flatten(config).items() if name not in NOT_OPTIONS}


def _machine(environment: dict[str, Any]) -> dict[str, Any]:
    packages = environment.get("packages")
    return {name: environment[name] for name in _ENVIRONMENT if name in environment} | (
        packages if isinstance(packages, dict) else {}
    )


def _metrics(runs: Sequence[Run]) -> list[Line]:
    best = [run.best for run in runs]
    names = {MAP: "mAP 50-95", MAP_50: "mAP 50", "val/map_75": "mAP 75", "val/map_small": "mAP small",
             "val/map_medium": "mAP medium", "val/map_large": "mAP large"}  # fmt: skip
    lines = [_line(label, [row.get(name) for row in best]) for name, label in names.items()]
    classes = list(dict.fromkeys(name for row in best for name in class_scores(row)))
    lines += [_line(f"AP of {name}", [class_scores(row).get(name) for row in best]) for name in classes]
    lines.append(_line("last mAP 50-95", [run.last.get(MAP) for run in runs]))
    lines.append(_line("best epoch", [row["epoch"] + 1 for row in best], None, lambda v: number(v, ".0f")))
    lines.append(Line("epochs", [epochs_text(run) for run in runs], [False] * len(runs)))
    return [line for line in lines if set(line.texts) != {NOTHING}]


def _speed(runs: Sequence[Run]) -> list[Line]:
    lines = [
        _line("images a second", [images_per_second(run.rows) for run in runs], "high", _short),
        _line("step, ms", [_median(run, "perf/step_ms") for run in runs], "low", _short),
        _line("data wait", [_median(run, "perf/data_wait_fraction") for run in runs], "low", _percent),
        _line("memory, MB", [_most(run, "perf/memory_peak_mb") for run in runs], "low", _short),
        _line("wall time", [wall_seconds(run) for run in runs], "low", duration),
    ]
    budgets = [phase_seconds(run.time_budget)[1] for run in runs]
    for name, phase in PHASES.items():
        values = [budget.get(name) for budget in budgets]
        lines.append(_line(f"  {phase.title.lower()}", values, None, duration))
    return [line for line in lines if set(line.texts) != {NOTHING}]


def _line(
    name: str,
    values: Sequence[float | None],
    better: Better | None = "high",
    write: Callable[[object], str] = number,
) -> Line:
    texts = [write(value) for value in values]
    pairs = zip(values, texts, strict=True)
    known = [value for value, text in pairs if value is not None and text != NOTHING]
    if better is None or len(set(texts)) < 2 or len(known) < 2:
        return Line(name, texts, [False] * len(texts))
    top = max(known) if better == "high" else min(known)
    return Line(name, texts, [text == write(top) for text in texts])


def _short(value: object) -> str:
    return number(value, ".4g")


def _percent(value: object) -> str:
    return number(value, ".1%")


def _median(run: Run, name: str) -> float | None:
    values = [row[name] for row in run.rows if name in row]
    return statistics.median(values) if values else None


def _most(run: Run, name: str) -> float | None:
    return max((row[name] for row in run.rows if name in row), default=None)


def as_text(comparison: Comparison) -> str:
    """A plain table for a terminal; a star marks the best of a line."""
    head = ["", *comparison.names]
    parts: list[list[list[str]]] = [[head]]
    differing = [[name, *map(_shortened, values)] for name, values in comparison.options]
    if differing:
        parts.append(differing)
    if comparison.machine:
        parts.append([[name, *map(_shortened, values)] for name, values in comparison.machine])
    for lines in (comparison.metrics, comparison.speed):
        if lines:
            parts.append([[line.name, *_starred(line)] for line in lines])
    rows = [row for part in parts for row in part]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    blocks = ["\n".join(_padded(row, widths) for row in part) for part in parts]
    same = [] if differing else ["(no option differs)"]
    return "\n\n".join([blocks[0], *same, *blocks[1:]])


def _starred(line: Line) -> list[str]:
    return [text + (" *" if best else "  ") for text, best in zip(line.texts, line.best, strict=True)]


def _shortened(text: str) -> str:
    """The end of a long value tells more: of a path, the name."""
    return (text if len(text) <= _WIDEST else "…" + text[1 - _WIDEST :]) + "  "


def _padded(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
