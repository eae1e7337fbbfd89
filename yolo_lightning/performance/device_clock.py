"""Idle time of a device between two steps, by its own clock, without ever waiting for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch


@dataclass
class DeviceTimes:
    """Sums over the intervals that the device has passed."""

    idle_ms: float = 0.0  # time between two steps
    busy_ms: float = 0.0  # time from the start of a step to its end

    @property
    def idle_fraction(self) -> float | None:
        """Part of the time, 0..1, in which the device idled between two steps; None if nothing is known."""
        total = self.idle_ms + self.busy_ms
        return self.idle_ms / total if total > 0 else None


def device_clock(device: torch.device) -> DeviceClock | None:
    """Make a clock of a CUDA device; None for a CPU, which is busy whenever the host is."""
    return DeviceClock(lambda: torch.cuda.Event(enable_timing=True)) if device.type == "cuda" else None


class DeviceClock:
    """Marks the starts and ends of steps on the device and adds up the time between marks later.

    A mark is an event, read after the device has passed it, so that the host never waits. Events are reused;
    a step takes two. If the host is so far ahead that no event is free, it omits marks, and the time
    around them does not count.
    """

    def __init__(self, make_event: Callable[[], torch.cuda.Event], capacity: int = 64) -> None:
        self._make_event = make_event
        self._capacity = capacity
        self._free: list[torch.cuda.Event] = []
        self._marks: deque[tuple[torch.cuda.Event, Literal["idle", "busy", None]]] = deque()
        """Events, each with the kind of time since the mark before; None if that does not count."""
        self._is_joined = False
        self._times = DeviceTimes()

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

    def step_ended(self) -> None:
        """Count the time since the last mark as busy."""
        self._mark("busy")

    def take(self) -> DeviceTimes:
        """Take the sums since the last call; marks that the device has not passed count in the next."""
        self._collect()
        times, self._times = self._times, DeviceTimes()
        return times

    def _mark(self, ends: Literal["idle", "busy"]) -> None:
        self._collect()
        if not self._free and len(self._marks) == self._capacity:
            return self.interrupt()
        event = self._free.pop() if self._free else self._make_event()
        event.record()
        self._marks.append((event, ends if self._is_joined else None))
        self._is_joined = True

    def _collect(self) -> None:
        """Add up the intervals that the device has passed, in their order."""
        while len(self._marks) > 1:
            (start, _), (end, ends) = self._marks[0], self._marks[1]
            if not end.query():
                break
            self._marks.popleft()
            if ends == "idle":
                self._times.idle_ms += start.elapsed_time(end)
            elif ends == "busy":
                self._times.busy_ms += start.elapsed_time(end)
            self._free.append(start)
