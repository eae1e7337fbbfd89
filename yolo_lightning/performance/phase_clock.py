"""A clock that gives every moment to exactly one phase."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class PhaseClock:
    """Adds up how long each phase has lasted; the phases together are all the time since it began.

    A counter is something that measures itself and lies within the phases, such as torch's time of
    compiling. What it has grown by is taken out of the phase in which it grew, so that nothing is
    counted twice.

    It belongs to one thread.

    Args:
        phase: the first phase.
        began_s: when it began, on ``time.monotonic``'s clock, the counters with it; now if left out.
        counters: by the name of its phase, a function that returns seconds which only grow.
        now: the clock; another one for tests.
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
        # What they counted before the clock began is none of its business.
        earlier = began_s is None
        self._counted = {name: read() if earlier else 0.0 for name, read in self._counters.items()}
        self._seconds: dict[str, float] = {}
        self._phase = phase

    @property
    def phase(self) -> str:
        """The phase that lasts."""
        return self._phase

    @property
    def elapsed_s(self) -> float:
        """Since the clock began."""
        return self._now() - self._began_s

    def seconds(self) -> dict[str, float]:
        """How long each phase has lasted until now."""
        self._settle()
        return dict(self._seconds)

    def enter(self, phase: str) -> None:
        """Let another phase begin."""
        self._settle()
        self._phase = phase

    def reassign(self, source: str, target: str) -> None:
        """Give the time of a phase to another one, because only now it is known what it was."""
        self._settle()
        self._add(target, self._seconds.pop(source, 0.0))

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """A phase within another one, which goes on afterwards."""
        outer = self._phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(outer)

    def _settle(self) -> None:
        """Give the time since the last call to the counters that grew, and what is left to the phase."""
        now = self._now()
        left, self._mark = now - self._mark, now
        for name, read in self._counters.items():
            counted, before = read(), self._counted[name]
            # One that is smaller than before was set back to 0 in between.
            grown = min(left, counted - before if counted >= before else counted)
            self._counted[name] = counted
            self._add(name, grown)
            left -= grown
        self._add(self._phase, left)

    def _add(self, phase: str, seconds: float) -> None:
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds


def compile_seconds() -> float:
    """How long torch.compile has held this process, by its own count; 0 before it is loaded.

    These are the forward and backward graphs, traced and compiled whole (``entire_frame_compile`` and
    ``entire_backward_compile``); kernels that are tuned at their first launch are not among them.
    """
    compiler = sys.modules.get("torch._dynamo.utils")
    count = getattr(compiler, "calculate_time_spent", None)
    return float(count()["total_wall_time"]) if count else 0.0
