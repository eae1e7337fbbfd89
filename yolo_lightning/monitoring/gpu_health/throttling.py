"""What lowered clocks cost: how long, for which reason, and about how much time of training."""

from __future__ import annotations

from typing import NamedTuple

from .readings import Reading

_LOAD = 0.5
"""Utilisation, 0..1, from which a clock is one under load."""


class Throttling(NamedTuple):
    """What an interval lost to lowered clocks."""

    seconds: float = 0.0
    """Length of the interval; 0 where nothing lowered the clocks."""
    reasons: frozenset[str] = frozenset()
    """Names among ``COSTLY_REASONS``; none where nothing lowered the clocks."""
    clock_mhz: float | None = None
    reference_mhz: float | None = None
    """The clock that there would have been."""
    is_bound: bool = False
    """Whether that is but the highest clock that the GPU is made for, so that the loss is an upper bound."""

    @property
    def drop(self) -> float | None:
        """Part of the clock, 0..1, that was missing; None where clocks are not told."""
        if self.clock_mhz is None or not self.reference_mhz:
            return None
        return max(0.0, 1 - self.clock_mhz / self.reference_mhz)

    @property
    def lost_s(self) -> float:
        """Time lost, in s."""
        return (self.drop or 0.0) * self.seconds


class ThrottleMeter:
    """Estimates the time that lowered clocks cost.

    An interval is throttled when at its end NVML gives a costly reason and the GPU is not idle.
    The time lost is the sum over throttled intervals of ``(1 - clock / reference) * seconds``: what the
    steps would have been faster, were they bound by the SM clock alone. ``reference`` is the highest
    SM clock that was seen so far without a costly reason under load (utilisation of 50 % or more). Before any
    was seen it is the highest clock that the GPU is made for, and the estimate an upper bound.

    Args:
        max_sm_clock_mhz: the highest clock that the GPU is made for; None where it is not told.
    """

    def __init__(self, max_sm_clock_mhz: float | None) -> None:
        self._max_mhz = max_sm_clock_mhz
        self._seen_mhz: float | None = None

    def see(self, reading: Reading, seconds: float) -> Throttling:
        """What the interval lost that this reading ends.

        Args:
            reading: of the GPU.
            seconds: since the reading before, 0 or more.
        """
        clock = reading.sm_clock_mhz
        if reading.throttling and not reading.is_idle:
            reference = self._seen_mhz or self._max_mhz
            return Throttling(seconds, reading.throttling, clock, reference, self._seen_mhz is None)
        busy = not reading.is_idle and (reading.utilisation is None or reading.utilisation >= _LOAD)
        if clock is not None and busy and not reading.throttling:
            self._seen_mhz = max(clock, self._seen_mhz or 0.0)
        return Throttling()
