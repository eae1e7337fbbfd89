"""Summaries of GPU readings: throttling and its cost, over time, over ranks, and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

from .nvml import GpuReading

_LOAD = 0.5
"""Utilisation, 0..1, above which a GPU counts as loaded."""
_PEAKS = {"memory_used_mb", "temperature_c"}
"""Scalars that are the maximum over time; the others are means."""
_OVER_RANKS = {
    **dict.fromkeys((*_PEAKS, "throttled_fraction", "throttle_lost_s"), max),
    **dict.fromkeys(("sm_clock_mhz", "memory_clock_mhz"), min),
}
"""Scalars of which the mean over all ranks is not logged, but the worst: the slowest GPU sets the pace."""
_MOST_RANKS = 8
"""Up to this number each rank has curves of its own."""
_COLUMNS = ("use %", "memory GB", "°C", "W", "SM MHz", "throttled", "time lost")


class Interval(NamedTuple):
    """The time up to a reading."""

    seconds: float
    reading: GpuReading
    reference_mhz: float | None = None
    """SM clock without throttling."""
    is_bound: bool = False
    """The reference is the GPU's maximum clock, so that the loss is an upper bound."""

    @property
    def drop(self) -> float | None:
        """Share of the clock that throttling takes, 0..1; None if clocks are unknown."""
        clock_mhz = self.reading.values.get("sm_clock_mhz")
        if clock_mhz is None or not self.reference_mhz:
            return None
        return max(0.0, 1 - clock_mhz / self.reference_mhz)

    @property
    def lost_s(self) -> float:
        """Time lost to throttling, in s."""
        return (self.drop or 0.0) * self.seconds


class ThrottleMeter:
    """Estimates the time lost to throttling.

    The loss is the sum of ``(1 - clock / reference) * seconds`` over intervals that end with a throttled
    reading, as if steps were bound by the SM clock alone. ``reference`` is the highest SM clock seen so far
    under load (utilisation of 50 % or more) without throttling. Until one was seen it is
    ``max_sm_clock_mhz``, the GPU's maximum clock (None if unknown), and the estimate is an upper bound.
    """

    def __init__(self, max_sm_clock_mhz: float | None) -> None:
        self._max_mhz = max_sm_clock_mhz
        self._seen_mhz = 0.0

    def see(self, reading: GpuReading, seconds: float) -> Interval:
        """Measure the interval of ``seconds`` that ends with this reading."""
        if reading.throttling:
            return Interval(seconds, reading, self._seen_mhz or self._max_mhz, not self._seen_mhz)
        if not reading.is_idle and reading.values.get("utilisation", 1.0) >= _LOAD:
            self._seen_mhz = max(reading.values.get("sm_clock_mhz", 0.0), self._seen_mhz)
        return Interval(seconds, reading)


@dataclass
class Aggregate:
    """Summary of the readings of one GPU; its size does not grow with time."""

    seconds: float = 0.0
    """Time watched."""
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    """``mean``, ``min``, ``max`` and number of ``readings`` of each value."""
    throttled_seconds: float = 0.0
    throttled_seconds_by_reason: dict[str, float] = field(default_factory=dict)
    """Throttled time by reason; an interval with two reasons counts for both."""
    lost_seconds: float = 0.0
    """Estimate of the time lost, see ``ThrottleMeter``."""
    lost_is_upper_bound: bool = False
    """The estimate is an upper bound."""

    def add(self, interval: Interval) -> None:
        """Add an interval and the reading at its end."""
        for name, value in interval.reading.values.items():
            seen = self.values.setdefault(name, {"mean": 0.0, "min": value, "max": value, "readings": 0})
            seen["readings"] += 1
            seen["mean"] += (value - seen["mean"]) / seen["readings"]
            seen["min"] = min(seen["min"], value)
            seen["max"] = max(seen["max"], value)
        self.seconds += interval.seconds
        by_reason = self.throttled_seconds_by_reason
        for reason in interval.reading.throttling:
            by_reason[reason] = by_reason.get(reason, 0.0) + interval.seconds
        if interval.reading.throttling:
            self.throttled_seconds += interval.seconds
            self.lost_seconds += interval.lost_s
            self.lost_is_upper_bound |= interval.is_bound and interval.lost_s > 0

    def scalars(self) -> dict[str, float]:
        """Values to log; ``throttled_fraction`` is 0..1, ``throttle_lost_s`` in s."""
        scalars = {n: value["max" if n in _PEAKS else "mean"] for n, value in self.values.items()}
        if self.seconds > 0:
            scalars["throttled_fraction"] = self.throttled_seconds / self.seconds
            scalars["throttle_lost_s"] = self.lost_seconds
        return scalars

    def as_dict(self) -> dict[str, Any]:
        """Summary for JSON, without the values that the GPU does not report."""
        times = {n: round(getattr(self, n), 3) for n in ("seconds", "throttled_seconds", "lost_seconds")}
        by_reason = {name: round(s, 3) for name, s in sorted(self.throttled_seconds_by_reason.items())}
        fields = asdict(self) | times | {"throttled_seconds_by_reason": by_reason}
        return fields.pop("values") | fields


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
        logged[f"gpu/{name}"] = _OVER_RANKS.get(name, fmean)(known)
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
    def cell(name: str, factor: float = 1.0, form: str = ".0f", extreme: str = "max") -> str:
        if name not in report:
            return "-"
        mean, most = (format(factor * report[name][key], form) for key in ("mean", extreme))
        return f"{mean} ({most})"

    where = f"rank {report['rank']} on {report['host']}, " if with_rank else ""
    title = " ".join(["GPU", *(str(report[key]) for key in ("index", "name") if key in report)])
    bound = "<=" if report["lost_is_upper_bound"] else "~"
    lost_s = report["lost_seconds"]
    return where + title, [
        cell("utilisation", 100),
        cell("memory_used_mb", 1e-3, ".1f"),
        cell("temperature_c"),
        cell("power_w"),
        cell("sm_clock_mhz", extreme="min"),
        f"{report['throttled_seconds']:.0f} s",
        f"{bound} {lost_s:.1f} s" if lost_s else "0 s",
    ]
