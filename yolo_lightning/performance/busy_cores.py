"""Cores that other programs take: noticed while the training runs, and made less expensive."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

from ..system.core_time import CoreUse, other_programs, read_core_use, waited_s
from ..system.openmp import SleepingThreads

_WINDOW_S = 2.0  # between two decisions
_BEGIN, _END = 0.3, 0.2
"""Seconds that threads wait for a core, a second of wall time: from here on they sleep, below they spin."""


class BusyCores(NamedTuple):
    """How other programs held up the threads of this process."""

    seconds: float  # wall time of the reading
    waited_s: float  # time that threads of this process waited for a core, all added up
    cores: int  # cores on which this process may run
    taken: float  # part of these cores that other programs took, 0..1
    largest: str = ""  # the program that took most; empty if none is visible


class CoreWatch:
    """Watches how long threads wait for a core; if it is long, those of OpenMP sleep instead of spinning.

    Nothing that it decides changes a result.
    """

    def __init__(
        self,
        waited: Callable[[], float | None] = waited_s,
        use: Callable[[], CoreUse | None] = read_core_use,
    ) -> None:
        self._read_waited, self._read_use = waited, use
        self.sleeping = SleepingThreads()
        self.begin()

    def begin(self) -> None:
        """Begin a new reading."""
        self._use = self._read_use()
        self._seconds = self._waited = 0.0
        self._mark, self._last = perf_counter(), self._read_waited()

    def look(self) -> None:
        """Decide how threads wait, every two seconds; for the start of each batch."""
        seconds = perf_counter() - self._mark
        if self._last is None or seconds < _WINDOW_S:
            return
        waited = self._add() / seconds
        if waited >= _BEGIN:
            self.sleeping.start()
        elif waited < _END:
            self.sleeping.stop()

    def _add(self) -> float:
        """Add the time since the last reading; the part of it that threads waited, in s."""
        now, waited, before = perf_counter(), self._read_waited() or 0.0, self._last or 0.0
        grown = max(0.0, waited - before)  # threads that ended take their time with them
        self._seconds += now - self._mark
        self._waited += grown
        self._mark, self._last = now, waited
        return grown

    def take(self) -> BusyCores | None:
        """The reading since :meth:`begin`; None without Linux's record."""
        use = self._read_use()
        if use is None or self._use is None or self._last is None:
            return None
        self._add()
        others = other_programs(self._use, use, os.getpid())
        taken = min(1.0, others.ran_s / (self._seconds * use.cores)) if self._seconds else 0.0
        return BusyCores(self._seconds, self._waited, use.cores, taken, others.largest)
