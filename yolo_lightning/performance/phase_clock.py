"""Clock that attributes every moment to exactly one phase."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class PhaseClock:
    """Adds up the duration of each phase; together they are all the time since the start.

    A counter measures something within the phases, such as torch's time of compiling. Its growth is taken out
    of the phase in which it grew, so that nothing counts twice. The clock belongs to one thread.

    Args:
        phase: first phase.
        began_s: start of the clock and its counters, on ``time.monotonic``'s clock; now if left out.
        counters: functions that return growing seconds, by the name of their phase.
        now: the clock, for tests.
    """

    def __init__(
        self,
        phase: str,
        began_s: float | None = None,
        counters: Mapping[str, Callable[[], float]] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._began_s = self._mark = now() if began_s is None else began_s
        self._counters = dict(counters or {})
        # Seconds counted before the clock began do not belong to it.
        earlier = began_s is None
        self._counted = {name: read() if earlier else 0.0 for name, read in self._counters.items()}
        self._seconds: dict[str, float] = {}
        self._phase = phase

    @property
    def phase(self) -> str:
        """Present phase."""
        return self._phase

    @property
    def elapsed_s(self) -> float:
        """Time since the start."""
        return self._now() - self._began_s

    def seconds(self) -> dict[str, float]:
        """Duration of each phase until now."""
        self._settle()
        return dict(self._seconds)

    def enter(self, phase: str) -> None:
        """Begin another phase."""
        self._settle()
        self._phase = phase

    def reassign(self, source: str, target: str) -> None:
        """Move the time of a phase to another one."""
        self._settle()
        self._add(target, self._seconds.pop(source, 0.0))

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Interrupt the present phase by another one."""
        outer = self._phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(outer)

    def _settle(self) -> None:
        """Attribute the time since the last call to the counters that grew, and the rest to the phase."""
        now = self._now()
        left, self._mark = now - self._mark, now
        for name, read in self._counters.items():
            counted, before = read(), self._counted[name]
            # A smaller value means that it was reset to 0 in between.
            grown = min(left, counted - before if counted >= before else counted)
            self._counted[name] = counted
            self._add(name, grown)
            left -= grown
        self._add(self._phase, left)

    def _add(self, phase: str, seconds: float) -> None:
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds


def compile_seconds() -> float:
    """Time that torch.compile took in this process, by its own count; 0 before it is loaded.

    It covers tracing and compiling of forward and backward graphs (``entire_frame_compile``,
    ``entire_backward_compile``), without kernels that are tuned at their first launch.
    """
    compiler = sys.modules.get("torch._dynamo.utils")
    count = getattr(compiler, "calculate_time_spent", None)
    return float(count()["total_wall_time"]) if count else 0.0
