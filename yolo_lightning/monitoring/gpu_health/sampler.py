"""A thread that reads a GPU every second, so that training never waits for NVML."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from .faults import FaultWatch, Message, Scope
from .nvml import GpuLost, NvmlGpu, NvmlUnavailable
from .readings import GpuFacts, GpuReading
from .summary import Aggregate
from .throttling import ThrottleMeter, Throttling

_THOROUGH_EVERY = 5
"""Readings from one thorough one to the next."""
_COUNTERS = ("ecc_corrected", "ecc_uncorrected", "remapped_rows")
_MOST_MESSAGES = 100
_END_S = 3.0
"""Time that the thread is given to end."""


class GpuSampler:
    """Samples one GPU on a thread of its own, from :meth:`start` to :meth:`stop`.

    No method waits for NVML. Messages wait for :meth:`take_messages`; if nobody takes them for
    ``late_s``, because training hangs, the thread writes them to standard error. Sampling ends by itself
    when the GPU is lost or cannot be read.

    Args:
        open_gpu: opens the GPU; called on the thread.
        where: text after the GPU's title in messages, such as rank and host.
        period_s: time between two readings.
        repeat_s: least time between two messages about the same fault.
        clock: time of the readings, in s; called once for each.
        late_s: time that a message waits before the thread prints it.
        unsaid: scopes of messages that another process prints.
    """

    def __init__(
        self,
        open_gpu: Callable[[], NvmlGpu],
        where: str = "",
        period_s: float = 1.0,
        repeat_s: float = 1800.0,
        clock: Callable[[], float] = time.monotonic,
        late_s: float = 10.0,
        unsaid: Collection[Scope] = (),
    ) -> None:
        self.facts: GpuFacts | None = None
        """Known once the thread has opened the GPU."""
        self._open_gpu = open_gpu
        self._where = where
        self._period_s = period_s
        self._repeat_s = repeat_s
        self._clock = clock
        self._late_s = late_s
        self._unsaid = unsaid
        self._lock = threading.Lock()
        """Guards the attributes below."""
        self._recent = Aggregate()
        self._whole = Aggregate()
        self._counters: dict[str, int] = {}
        self._faults: list[str] = []
        """The first 100 lines, but those about unsupported values."""
        self._messages: deque[tuple[float, Message]] = deque(maxlen=_MOST_MESSAGES)
        """Readings, each with the monotonic time at which it was due."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu-health", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns when the thread has ended, or after 3 s, since a driver may never answer."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(_END_S)

    def take(self) -> Aggregate:
        """Summary of the readings since the last call."""
        with self._lock:
            taken, self._recent = self._recent, Aggregate()
        return taken

    def take_messages(self) -> list[Message]:
        """Messages that were not printed yet, oldest first."""
        return self._take(due_before_s=math.inf)

    def report(self) -> dict[str, Any]:
        """Summary of all readings for JSON; empty if there were none. Unknown values are left out."""
        with self._lock:
            seen, counters, faults = self._whole.as_dict(), dict(self._counters), list(self._faults)
        if self.facts is None:
            return {"faults": faults} if faults else {}
        facts = {name: value for name, value in dataclasses.asdict(self.facts).items() if value is not None}
        return {**facts, **counters, **seen, "faults": faults}

    # -- on the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        """Sample until stopped, or until there is nothing to sample; raises nothing."""
        title = f"GPU health{self._where}"
        try:
            gpu = self._open_gpu()
        except NvmlUnavailable as error:
            self._say([Message("host", f"{title}: not watched: {error}")])
        except GpuLost as error:
            self._say([FaultWatch(GpuFacts(), self._where).lost(str(error), error.xids)])
        except Exception as error:  # GPU health must never end a run
            self._say([Message("host", f"{title}: not watched: {type(error).__name__}: {error}")])
        else:
            try:
                self._watch(gpu)
            except Exception as error:
                self._say([Message("host", f"{title}: watched no more: {type(error).__name__}: {error}")])
            finally:
                gpu.close()
        while self._messages and not self._stopping.is_set():
            self._print_late()
            self._stopping.wait(self._period_s)

    def _watch(self, gpu: NvmlGpu) -> None:
        """Sample until stopped, or until the GPU is lost."""
        self.facts = gpu.facts
        watch = FaultWatch(gpu.facts, self._where, self._repeat_s)
        meter = ThrottleMeter(gpu.facts.max_sm_clock_mhz)
        before_s: float | None = None
        readings = 0
        while not self._stopping.is_set():
            now_s = self._clock()
            try:
                reading = gpu.read(thoroughly=readings % _THOROUGH_EVERY == 0)
            except GpuLost as error:
                self._say([watch.lost(str(error), error.xids)])
                return
            seconds = 0.0 if before_s is None else now_s - before_s
            before_s = now_s
            readings += 1
            throttling = meter.see(reading, seconds)
            self._keep(reading, throttling, seconds)
            self._say(watch.see_left_out(gpu.unsupported, gpu.forbidden))
            self._say(watch.see(now_s, reading, throttling, seconds))
            self._print_late()
            self._stopping.wait(self._period_s)

    def _keep(self, reading: GpuReading, throttling: Throttling, seconds: float) -> None:
        values = {name: getattr(reading, name) for name in _COUNTERS}
        with self._lock:
            self._counters |= {name: value for name, value in values.items() if value is not None}
            self._recent.add(reading, throttling, seconds)
            self._whole.add(reading, throttling, seconds)

    def _say(self, messages: list[Message]) -> None:
        for message in messages:
            if message.scope not in self._unsaid:
                self._messages.append((time.monotonic(), message))
            if message.scope != "run" and len(self._faults) < _MOST_MESSAGES:
                with self._lock:
                    self._faults.append(message.line)

    def _print_late(self) -> None:
        for message in self._take(due_before_s=time.monotonic() - self._late_s):
            with contextlib.suppress(OSError, ValueError):  # standard error may be closed
                sys.stderr.write(f"{message.line}\n")  # in one write, so that the line stays whole
                sys.stderr.flush()

    def _take(self, due_before_s: float) -> list[Message]:
        taken = []
        with self._lock:
            while self._messages and self._messages[0][0] <= due_before_s:
                taken.append(self._messages.popleft()[1])
        return taken
