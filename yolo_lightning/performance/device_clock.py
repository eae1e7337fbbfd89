"""How long a device idles between two steps, by its own clock and without ever waiting for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import torch


class Event(Protocol):
    """What is used of ``torch.cuda.Event(enable_timing=True)``."""

    def record(self) -> Any:
        """Put the event behind all work that the host has given to the device so far."""

    def query(self) -> bool:
        """Whether the device has come to it."""

    def elapsed_time(self, end_event: Any) -> float:
        """Time from this event to a later one, in ms; both have been reached."""


class DeviceTimes(NamedTuple):
    """Sums over the intervals whose ends the device has reached."""

    idle_ms: float = 0.0
    """Between two steps."""
    busy_ms: float = 0.0
    """From the start of a step to its end."""
    steps: int = 0
    """Steps that were asked about below."""
    launch_bound_steps: int = 0
    """Those whose backward pass was done when the host had launched the rest of the step."""

    @property
    def idle_fraction(self) -> float | None:
        """Part of the time, 0..1, that the device idled between two steps; None before anything is known."""
        total = self.idle_ms + self.busy_ms
        return self.idle_ms / total if total > 0 else None

    @property
    def launch_bound_fraction(self) -> float | None:
        """Part of the steps, 0..1, in which the device kept up with the host; None without any step."""
        return self.launch_bound_steps / self.steps if self.steps else None


class _Mark(NamedTuple):
    event: Event
    ends: Literal["idle", "busy", None]
    """The kind of time between the mark before it and this one; None where it is not to be counted."""


def cuda_clock() -> DeviceClock:
    """A clock of the current stream of the current CUDA device."""
    return DeviceClock(lambda: torch.cuda.Event(enable_timing=True))


class DeviceClock:
    """Marks the starts and ends of steps on the device and adds up the time between marks later.

    A mark is an event that the device passes when all work given to it before is done. The times
    between marks are read once the device has passed them, so that the host never waits. Where the
    host is so far ahead that no event is free, marks are left out and what lies around them is not
    counted.

    Args:
        make_event: makes an event; events are used again.
        capacity: events that exist at most, 4 or more; a step takes up to three.
    """

    def __init__(self, make_event: Callable[[], Event], capacity: int = 96) -> None:
        self._make_event = make_event
        self._capacity = capacity
        self._made = 0
        self._free: list[Event] = []
        self._marks: deque[_Mark] = deque()
        self._backward: Event | None = None
        """The mark behind the backward pass of the present step."""
        self._is_joined = False
        self._idle_ms = self._busy_ms = 0.0
        self._steps = self._launch_bound_steps = 0

    def interrupt(self) -> None:
        """What lies between the last mark and the next one is not to be counted."""
        self._is_joined = False

    def epoch_started(self) -> None:
        """From here on the device idles until the first step of the epoch."""
        self.interrupt()
        self._mark("idle")

    def step_started(self) -> None:
        """A step begins; since the last mark the device idled."""
        self._mark("idle")

    def backward_launched(self) -> None:
        """The host has given the device the backward pass of this step."""
        self._backward = self._mark("busy")

    def step_ended(self) -> None:
        """A step ends; since the last mark the device was busy with it."""
        if self._backward is not None:
            self._steps += 1
            self._launch_bound_steps += self._backward.query()
            self._backward = None
        self._mark("busy")

    def take(self) -> DeviceTimes:
        """The sums since this was last asked; what the device has not reached yet goes to the next."""
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
        """Add up the intervals that the device has passed; it passes marks in their order."""
        while len(self._marks) > 1 and self._marks[1].event.query():
            start, end = self._marks.popleft(), self._marks[0]
            if end.ends == "idle":
                self._idle_ms += start.event.elapsed_time(end.event)
            elif end.ends == "busy":
                self._busy_ms += start.event.elapsed_time(end.event)
            self._free.append(start.event)
