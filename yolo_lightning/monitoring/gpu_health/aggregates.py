"""Readings of a GPU over any length of time, in a few numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from .readings import Reading
from .throttling import Throttling

MEASURED = (
    "utilisation",
    "memory_used_mb",
    "temperature_c",
    "power_w",
    "sm_clock_mhz",
    "memory_clock_mhz",
    "pcie_rx_mb_s",
    "pcie_tx_mb_s",
)
"""Values of a reading of which the least, the mean and the largest are kept."""


@dataclass
class Statistic:
    """Least, mean and largest of some values."""

    count: int = 0
    total: float = 0.0
    least: float = math.inf
    most: float = -math.inf

    def add(self, value: float) -> None:
        """Take in one more value."""
        self.count += 1
        self.total += value
        self.least, self.most = min(self.least, value), max(self.most, value)

    @property
    def mean(self) -> float:
        """NaN without any value."""
        return self.total / self.count if self.count else math.nan


@dataclass
class Aggregate:
    """What a GPU did over some time; takes as much room for a day as for a second."""

    seconds: float = 0.0
    """That were watched."""
    values: dict[str, Statistic] = field(default_factory=dict)
    """Of those ``MEASURED`` that are told."""
    throttled_s: float = 0.0
    throttled_by_s: dict[str, float] = field(default_factory=dict)
    """By reason; an interval with two reasons counts for both."""
    lost_s: float = 0.0
    """Estimate of the time that it cost, see ``ThrottleMeter``."""
    lost_is_bound: bool = False
    """Whether that is an upper bound."""

    def add(self, reading: Reading, throttling: Throttling, seconds: float) -> None:
        """Take in a reading and the interval that it ends."""
        for name in MEASURED:
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
        """What is worth a curve, for those that are told.

        Means, but the largest of temperature and memory; ``throttled_fraction`` is 0..1,
        ``throttle_lost_s`` in s.
        """
        scalars = {
            name: statistic.most if name in {"memory_used_mb", "temperature_c"} else statistic.mean
            for name, statistic in self.values.items()
        }
        if self.seconds > 0:
            scalars["throttled_fraction"] = self.throttled_s / self.seconds
            scalars["throttle_lost_s"] = self.lost_s
        return scalars

    def as_dict(self) -> dict[str, Any]:
        """For JSON; names that have no value are left out."""
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
