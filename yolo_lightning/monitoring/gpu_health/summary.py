"""Summaries of GPU readings: over time, over ranks, and as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .readings import GpuReading
from .throttling import Throttling

_SUMMARISED = (
    "utilisation",
    "memory_used_mb",
    "temperature_c",
    "power_w",
    "sm_clock_mhz",
    "memory_clock_mhz",
    "pcie_rx_mb_s",
    "pcie_tx_mb_s",
)
"""Fields of a reading whose minimum, mean and maximum are kept."""
_PEAKS = {"memory_used_mb", "temperature_c"}
"""Scalars that are the maximum over time; the others are means."""
_LARGEST = {*_PEAKS, "throttled_fraction", "throttle_lost_s"}
"""Scalars of which the largest over all ranks is logged: the slowest GPU sets the pace."""
_SMALLEST = {"sm_clock_mhz", "memory_clock_mhz"}
_MOST_RANKS = 8
"""Up to this number each rank has curves of its own."""
_COLUMNS = ("use %", "memory GB", "°C", "W", "SM MHz", "throttled", "time lost")


@dataclass
class Statistic:
    """Minimum, mean and maximum of some values."""

    count: int = 0
    total: float = 0.0
    least: float = math.inf
    most: float = -math.inf

    def add(self, value: float) -> None:
        """Add a value."""
        self.count += 1
        self.total += value
        self.least = min(self.least, value)
        self.most = max(self.most, value)

    @property
    def mean(self) -> float:
        """Mean; there must be a value."""
        return self.total / self.count


@dataclass
class Aggregate:
    """Summary of the readings of one GPU; its size does not grow with time."""

    seconds: float = 0.0
    """Time watched."""
    values: dict[str, Statistic] = field(default_factory=dict)
    throttled_s: float = 0.0
    throttled_by_s: dict[str, float] = field(default_factory=dict)
    """Throttled time by reason; an interval with two reasons counts for both."""
    lost_s: float = 0.0
    """Estimate of the time lost, see ``ThrottleMeter``."""
    lost_is_bound: bool = False
    """The estimate is an upper bound."""

    def add(self, reading: GpuReading, throttling: Throttling, seconds: float) -> None:
        """Add a reading and the interval that ends with it."""
        for name in _SUMMARISED:
            value = getattr(reading, name)
            if value is not None:
                self.values.setdefault(name, Statistic()).add(value)
        self.seconds += seconds
        self.throttled_s += throttling.seconds
        for reason in throttling.reasons:
            self.throttled_by_s[reason] = self.throttled_by_s.get(reason, 0.0) + throttling.seconds
        self.lost_s += throttling.lost_s
        self.lost_is_bound = self.lost_is_bound or (throttling.is_bound and throttling.lost_s > 0)

    def scalars(self) -> dict[str, float]:
        """Values to log; ``throttled_fraction`` is 0..1, ``throttle_lost_s`` in s."""
        scalars = {n: value.most if n in _PEAKS else value.mean for n, value in self.values.items()}
        if self.seconds > 0:
            scalars["throttled_fraction"] = self.throttled_s / self.seconds
            scalars["throttle_lost_s"] = self.lost_s
        return scalars

    def as_dict(self) -> dict[str, Any]:
        """Summary for JSON, without the values that the GPU does not report."""
        return {
            "seconds": round(self.seconds, 3),
            **{
                name: {"mean": s.mean, "min": s.least, "max": s.most, "readings": s.count}
                for name, s in self.values.items()
            },
            "throttled_seconds": round(self.throttled_s, 3),
            "throttled_seconds_by_reason": dict(sorted(self.throttled_by_s.items())),
            "lost_seconds": round(self.lost_s, 3),
            "lost_is_upper_bound": self.lost_is_bound,
        }


def scalars_of_ranks(ranks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Scalars of all ranks -> scalars to log.

    ``gpu/<name>`` is the mean over the ranks, but the largest temperature, memory and loss by
    throttling, and the lowest clocks. With 2 to 8 ranks there is ``gpu/<rank>/<name>`` as well.

    Args:
        ranks: name to value for each rank, in order; empty for a rank without readings.
    """
    logged = {}
    for name in sorted({name for values in ranks for name in values}):
        known = [values[name] for values in ranks if name in values]
        if name in _LARGEST:
            logged[f"gpu/{name}"] = max(known)
        elif name in _SMALLEST:
            logged[f"gpu/{name}"] = min(known)
        else:
            logged[f"gpu/{name}"] = sum(known) / len(known)
    if 1 < len(ranks) <= _MOST_RANKS:
        for rank, values in enumerate(ranks):
            logged |= {f"gpu/{rank}/{name}": value for name, value in values.items()}
    return logged


def table(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a table with a row for each GPU; none if no GPU was read.

    Args:
        reports: from ``GpuSampler.report``, with ``rank`` and ``host``.
    """
    rows = [_row(report, len(reports) > 1) for report in reports if report.get("seconds")]
    if not rows:
        return []
    width = max(len(title) for title, _ in rows)
    lines = ["GPU health: mean (largest), of clocks mean (least)"]
    for title, cells in (("", _COLUMNS), *rows):
        lines.append(f"{title:<{width}}" + "".join(f"{cell:>13}" for cell in cells))
    return lines


def _row(report: Mapping[str, Any], with_rank: bool) -> tuple[str, Sequence[str]]:
    where = f"rank {report['rank']} on {report['host']}, " if with_rank else ""
    title = f"{where}GPU {report.get('index', '')} {report.get('name', '')}".replace("  ", " ").strip()
    bound = "<=" if report["lost_is_upper_bound"] else "~"
    lost_s = report["lost_seconds"]
    return title, [
        _cell(report.get("utilisation"), 100),
        _cell(report.get("memory_used_mb"), 1e-3, ".1f"),
        _cell(report.get("temperature_c")),
        _cell(report.get("power_w")),
        _cell(report.get("sm_clock_mhz"), extreme="min"),
        f"{report['throttled_seconds']:.0f} s",
        f"{bound} {lost_s:.1f} s" if lost_s else "0 s",
    ]


def _cell(
    statistic: Mapping[str, float] | None, factor: float = 1.0, form: str = ".0f", extreme: str = "max"
) -> str:
    if statistic is None:
        return "-"
    return f"{format(factor * statistic['mean'], form)} ({format(factor * statistic[extreme], form)})"
