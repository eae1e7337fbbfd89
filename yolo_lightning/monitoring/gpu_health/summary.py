"""The GPUs of all ranks side by side: as scalars, as a table, and as one dictionary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_MOST_RANKS = 8
"""Up to here each rank has curves of its own; in a larger run only what they have in common is shown."""
_LARGEST = {"memory_used_mb", "temperature_c", "throttled_fraction", "throttle_lost_s"}
"""Scalars of which the largest over all ranks counts, since the slowest GPU sets the pace."""
_SMALLEST = {"sm_clock_mhz", "memory_clock_mhz"}


def scalars_of_ranks(ranks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The scalars to log, from those of each rank.

    ``gpu/<name>`` is the mean over the ranks that tell it, but the largest temperature, memory and loss by
    throttling, and the lowest clocks. With 2 to 8 ranks there is ``gpu/<rank>/<name>`` as well.

    Args:
        ranks: name to value for each rank, in order; a rank that has nothing to tell has none.
    """
    logged = {}
    for name in sorted({name for values in ranks for name in values}):
        known = [values[name] for values in ranks if not math.isnan(values.get(name, math.nan))]
        if not known:
            continue
        if name in _LARGEST:
            logged[f"gpu/{name}"] = max(known)
        elif name in _SMALLEST:
            logged[f"gpu/{name}"] = min(known)
        else:
            logged[f"gpu/{name}"] = sum(known) / len(known)
    if 1 < len(ranks) <= _MOST_RANKS:
        for rank, values in enumerate(ranks):
            logged |= {f"gpu/{rank}/{n}": value for n, value in values.items() if not math.isnan(value)}
    return logged


def table(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a table with a row a GPU; none where nothing was read of any.

    Args:
        reports: as of ``GpuSampler.report``, with ``rank`` and ``host``.
    """
    rows = [_row(report, len(reports) > 1) for report in reports if report.get("seconds")]
    if not rows:
        return []
    width = max(len(title) for title, _ in rows)
    heads = ["use %", "memory GB", "°C", "W", "SM MHz", "throttled", "time lost"]
    lines = ["GPU health: mean (largest), of clocks mean (least)"]
    lines.append(" " * width + "".join(f"{head:>13}" for head in heads))
    return lines + [f"{title:<{width}}" + "".join(f"{cell:>13}" for cell in cells) for title, cells in rows]


def _row(report: Mapping[str, Any], with_rank: bool) -> tuple[str, list[str]]:
    where = f"rank {report['rank']} on {report['host']}, " if with_rank else ""
    title = f"{where}GPU {report.get('index', '')} {report.get('name', '')}".replace("  ", " ").strip()
    bound = "<=" if report["lost_is_upper_bound"] else "~"
    lost, throttled = report["lost_seconds"], report["throttled_seconds"]
    return title, [
        _cell(report.get("utilisation"), 100),
        _cell(report.get("memory_used_mb"), 1e-3, ".1f"),
        _cell(report.get("temperature_c")),
        _cell(report.get("power_w")),
        _cell(report.get("sm_clock_mhz"), extreme="min"),
        f"{throttled:.0f} s",
        f"{bound} {lost:.1f} s" if lost else "0 s",
    ]


def _cell(
    statistic: Mapping[str, float] | None, factor: float = 1.0, form: str = ".0f", extreme: str = "max"
) -> str:
    if statistic is None:
        return "-"
    return f"{format(factor * statistic['mean'], form)} ({format(factor * statistic[extreme], form)})"
