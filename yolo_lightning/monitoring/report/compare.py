"""Runs side by side: the options that differ, what each run reached, and what the difference shows."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from ...system.text import printable
from ..metric_names import MAP, METRIC_TITLES, NOTHING, SPEED, duration_text, number
from .read import Run
from .sections import PHASES, class_average_precisions, epochs_text, phase_seconds, wall_seconds
from .verdicts import NOT_OPTIONS, flatten, short_names, verdicts

_ENVIRONMENT = ("gpus", "cuda", "cpu", "cpu_count", "precision", "world_size", "python", "git_commit")
_WIDEST = 40
"""Longest value in the terminal."""
_WHOLE, _SHORT, _PERCENT = (partial(number, form=form) for form in (".0f", ".4g", ".1%"))


class ComparedMetric(NamedTuple):
    """A figure of every run."""

    name: str
    texts: list[str]
    best: list[bool]
    """Runs with the best figure; all False if the figures are alike, or none is better."""


class Comparison(NamedTuple):
    """Differences between runs."""

    names: list[str]
    options: list[tuple[str, list[str]]]
    """Dotted option and its value in each run, for options that differ."""
    machine: list[tuple[str, list[str]]]
    """The same for hardware and versions."""
    metrics: list[ComparedMetric]
    speed: list[ComparedMetric]
    verdicts: list[str]
    """Sentences of the paired bootstrap: what the validation images show of the difference in mAP."""


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Compare runs, in the order given."""
    options = [flatten(run.config) for run in runs]
    machines = [
        {name: run.environment[name] for name in _ENVIRONMENT if name in run.environment}
        | run.environment.get("packages", {})
        for run in runs
    ]
    return Comparison(
        names=short_names(runs),
        options=[(name, texts) for name, texts in differences(options) if name not in NOT_OPTIONS],
        machine=differences(machines),
        metrics=_metrics(runs),
        speed=_speed(runs),
        verdicts=verdicts(runs),
    )


def differences(runs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Names whose values differ between runs, with the value in each; a dash if a run lacks the name."""
    names = list(dict.fromkeys(name for run in runs for name in run))
    texts = {name: [_text(run[name]) if name in run else NOTHING for run in runs] for name in names}
    return [(name, values) for name, values in texts.items() if len(set(values)) > 1]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _metrics(runs: Sequence[Run]) -> list[ComparedMetric]:
    best = [run.best for run in runs]
    metrics = [_metric(title, [row.get(name) for row in best]) for name, title in METRIC_TITLES.items()]
    by_class = [class_average_precisions(row) for row in best]
    for name in dict.fromkeys(name for scores in by_class for name in scores):
        metrics.append(_metric(f"AP of {name}", [scores.get(name) for scores in by_class]))
    metrics.append(_metric(f"last {METRIC_TITLES[MAP]}", [run.last.get(MAP) for run in runs]))
    metrics.append(_metric("best epoch", [row["epoch"] + 1 for row in best], None, _WHOLE))
    metrics.append(ComparedMetric("epochs", [epochs_text(run) for run in runs], [False] * len(runs)))
    return [metric for metric in metrics if set(metric.texts) != {NOTHING}]


def _speed(runs: Sequence[Run]) -> list[ComparedMetric]:
    def over_epochs(name: str, choose: Callable[[list[float]], float]) -> list[float | None]:
        values = [[row[name] for row in run.rows if name in row] for run in runs]
        return [choose(of_run) if of_run else None for of_run in values]

    median = statistics.median
    metrics = [
        _metric("images per second", over_epochs(SPEED, median), max, _SHORT),
        _metric("step, ms", over_epochs("perf/step_ms", median), min, _SHORT),
        _metric("data wait", over_epochs("perf/data_wait_fraction", median), min, _PERCENT),
        _metric("memory, MB", over_epochs("perf/memory_peak_mb", max), min, _SHORT),
        _metric("wall time", [wall_seconds(run) for run in runs], min, duration_text),
    ]
    budgets = [phase_seconds(run.time_budget) for run in runs]
    for key, (title, _) in PHASES.items():
        seconds = [budget.get(key) for budget in budgets]
        metrics.append(_metric(f"  {title.lower()}", seconds, None, duration_text))
    return [metric for metric in metrics if set(metric.texts) != {NOTHING}]


def _metric(
    name: str,
    values: Sequence[float | None],
    better: Callable[..., float] | None = max,
    write: Callable[[float | None], str] = number,
) -> ComparedMetric:
    texts = [write(value) for value in values]
    known = [value for value, text in zip(values, texts, strict=True) if text != NOTHING]
    if better is None or len(set(texts)) < 2 or len(known) < 2:
        return ComparedMetric(name, texts, [False] * len(texts))
    top = write(better(known))
    return ComparedMetric(name, texts, [text == top for text in texts])


def as_text(comparison: Comparison) -> str:
    """A plain table for a terminal; a star marks the best of a line."""
    parts = [[["", *comparison.names]]]
    for table in (comparison.options, comparison.machine):
        parts.append([[name, *map(_shortened, texts)] for name, texts in table])
    for metrics in (comparison.metrics, comparison.speed):
        parts.append([[metric.name, *_starred(metric)] for metric in metrics])
    widths = [max(map(len, column)) for column in zip(*itertools.chain(*parts), strict=True)]
    blocks = ["\n".join(_padded(row, widths) for row in part) for part in parts if part]
    if not comparison.options:
        blocks.insert(1, "(no option differs)")
    blocks.append("\n".join(printable(sentence) for sentence in comparison.verdicts))
    return "\n\n".join(blocks)


def _starred(metric: ComparedMetric) -> list[str]:
    return [text + (" *" if best else "  ") for text, best in zip(metric.texts, metric.best, strict=True)]


def _shortened(text: str) -> str:
    """The end of a long value: the name at the end of a path tells most."""
    return (text if len(text) <= _WIDEST else "…" + text[1 - _WIDEST :]) + "  "


def _padded(row: Sequence[str], widths: Sequence[int]) -> str:
    line = "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
    return printable(line)
