"""Idle time of a device between two steps, by its own clock, without ever waiting for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import torch


class Event(Protocol):
    """The part of ``torch.cuda.Event(enable_timing=True)`` that is used here."""

    def record(self) -> Any:
        """Put the event behind all work that the host has launched."""

    def query(self) -> bool:
        """True if the device has passed it."""

    def elapsed_time(self, end_event: Any) -> float:
        """Time in ms from this event to a later one, both passed."""


class DeviceTimes(NamedTuple):
    """Sums over the intervals that the device has passed."""

    idle_ms: float = 0.0
    """Time between two steps."""
    busy_ms: float = 0.0
    """Time from the start of a step to its end."""
    steps: int = 0
    """Steps that were checked for being launch-bound."""
    launch_bound_steps: int = 0
    """Steps whose backward pass was done when the host had launched the rest of the step."""

    @property
    def idle_fraction(self) -> float | None:
        """Part of the time, 0..1, in which the device idled between two steps; None if nothing is known."""
        total = self.idle_ms + self.busy_ms
        return self.idle_ms / total if total > 0 else None

    @property
    def launch_bound_fraction(self) -> float | None:
        """Part of the steps, 0..1, in which the device kept up with the host; None without a step."""
        return self.launch_bound_steps / self.steps if self.steps else None


class _Mark(NamedTuple):
    event: Event
    ends: Literal["idle", "busy", None]
    """Kind of time since the mark before; None if it does not count."""


def cuda_clock() -> DeviceClock:
    """Make a clock of the current stream of the current CUDA device."""
    return DeviceClock(lambda: torch.cuda.Event(enable_timing=True))


class DeviceClock:
    """Marks the starts and ends of steps on the device and adds up the time between marks later.

    A mark is an event, read after the device has passed it, so that the host never waits. If the host is so
    far ahead that no event is free, it omits marks, and the time around them does not count.

    Args:
        make_event: makes an event; events are reused.
        capacity: most events, 4 or more; a step takes up to three.
    """

    def __init__(self, make_event: Callable[[], Event], capacity: int = 96) -> None:
        self._make_event = make_event
        self._capacity = capacity
        self._made = 0
        self._free: list[Event] = []
        self._marks: deque[_Mark] = deque()
        self._backward: Event | None = None
        """Mark behind the backward pass of the present step."""
        self._is_joined = False
        self._idle_ms = self._busy_ms = 0.0
        self._steps = self._launch_bound_steps = 0

    def interrupt(self) -> None:
        """Do not count the time between the last mark and the next one."""
        self._is_joined = False

    def epoch_started(self) -> None:
        """Count the time until the first step of the epoch as idle."""
        self.interrupt()
        self._mark("idle")

    def step_started(self) -> None:
        """Count the time since the last mark as idle."""
        self._mark("idle")

    def backward_launched(self) -> None:
        """Mark the end of the backward pass, which the host has launched."""
        self._backward = self._mark("busy")

    def step_ended(self) -> None:
        """Count the time since the last mark as busy."""
        if self._backward is not None:
            self._steps += 1
            self._launch_bound_steps += self._backward.query()
            self._backward = None
        self._mark("busy")

    def take(self) -> DeviceTimes:
        """Take the sums since the last call; marks that the device has not passed count in the next."""
        self._collect()
        times = DeviceTimes(self._idle_ms, self._busy_ms, self._steps, self._launch_bound_steps)
        self._idle_ms = self._busy_ms = 0.0
        self._steps = self._launch_bound_steps = 0
        return times

    def _mark(self, ends: Literal["idle", "busy"]) -> Event | None:
        self._collect()
        event = self._take_event()
        if event is None:
            self.interrupt()
            return None
        event.record()
        self._marks.append(_Mark(event, ends if self._is_joined else None))
        self._is_joined = True
        return event

    def _take_event(self) -> Event | None:
        if self._free:
            return self._free.pop()
        if self._made == self._capacity:
            return None
        self._made += 1
        return self._make_event()

    def _collect(self) -> None:
        """Add up the intervals that the device has passed, in their order."""
        while len(self._marks) > 1 and self._marks[1].event.query():
            start, end = self._marks.popleft(), self._marks[0]
            if end.ends == "idle":
                self._idle_ms += start.event.elapsed_time(end.event)
            elif end.ends == "busy":
                self._busy_ms += start.event.elapsed_time(end.event)
            self._free.append(start.event)
