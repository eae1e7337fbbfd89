"""Throttling: how long clocks were lowered, why, and about how much training time that cost."""

from __future__ import annotations

from typing import NamedTuple

from .readings import GpuReading

_LOAD = 0.5
"""Utilisation, 0..1, above which a GPU counts as loaded."""


class Throttling(NamedTuple):
    """Throttling in one interval; the defaults mean none."""

    seconds: float = 0.0
    reasons: frozenset[str] = frozenset()
    """Keys of ``COSTLY_REASONS``."""
    clock_mhz: float | None = None
    reference_mhz: float | None = None
    """Clock without throttling."""
    is_bound: bool = False
    """The reference is the GPU's maximum clock, so that the loss is an upper bound."""

    @property
    def drop(self) -> float | None:
        """Missing share of the clock, 0..1; None if clocks are unknown."""
        if self.clock_mhz is None or not self.reference_mhz:
            return None
        return max(0.0, 1 - self.clock_mhz / self.reference_mhz)

    @property
    def lost_s(self) -> float:
        """Time lost, in s."""
        return (self.drop or 0.0) * self.seconds


class ThrottleMeter:
    """Estimates the time lost to throttling.

    An interval is throttled if the reading at its end has a costly reason and the GPU is not idle.
    The loss is the sum of ``(1 - clock / reference) * seconds`` over throttled intervals, as if steps
    were bound by the SM clock alone. ``reference`` is the highest SM clock seen so far under load
    (utilisation of 50 % or more) without throttling. Until one was seen it is the GPU's maximum clock,
    and the estimate is an upper bound.

    Args:
        max_sm_clock_mhz: the GPU's maximum clock; None if it is unknown.
    """

    def __init__(self, max_sm_clock_mhz: float | None) -> None:
        self._max_mhz = max_sm_clock_mhz
        self._seen_mhz: float | None = None

    def see(self, reading: GpuReading, seconds: float) -> Throttling:
        """Throttling in the interval that ends with this reading.

        Args:
            reading: of the GPU.
            seconds: length of the interval.
        """
        clock = reading.sm_clock_mhz
        if reading.throttling and not reading.is_idle:
            reference = self._seen_mhz or self._max_mhz
            return Throttling(seconds, reading.throttling, clock, reference, self._seen_mhz is None)
        is_loaded = not reading.is_idle and (reading.utilisation is None or reading.utilisation >= _LOAD)
        if clock is not None and is_loaded:
            self._seen_mhz = max(clock, self._seen_mhz or 0.0)
        return Throttling()
