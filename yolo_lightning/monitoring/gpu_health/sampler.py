"""A thread that looks at a GPU every second, so that training never has to."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from .aggregates import Aggregate
from .faults import FaultWatch, Kind, Message
from .nvml import GpuLost, NvmlGpu, NvmlUnavailable
from .readings import GpuFacts, Reading
from .throttling import ThrottleMeter, Throttling

_THOROUGH_EVERY = 5
"""Looks between two that read also what changes rarely or takes long."""
_CONSTANTS = (
    "index",
    "name",
    "is_mig",
    "memory_total_mb",
    "slowdown_c",
    "max_operating_c",
    "power_limit_w",
    "max_sm_clock_mhz",
    "max_memory_clock_mhz",
    "retired_pages",
)
_COUNTERS = ("ecc_corrected", "ecc_uncorrected", "remapped_rows")
_MOST_MESSAGES = 100
_END_S = 3.0
"""Seconds that are given to a look that is under way when the thread is to end."""


class GpuSampler:
    """Samples one GPU on a thread of its own, from :meth:`start` to :meth:`stop`.

    Whoever asks for what was seen waits for some additions at most, never for NVML. Messages wait for
    :meth:`take_messages`; when nobody takes them for 10 s, as where training hangs, the thread writes them
    to standard error. Sampling ends by itself when the GPU is lost or cannot be read.

    Args:
        open_gpu: opens the GPU; called on the thread.
        where: what is put behind its title in messages, such as rank and host.
        period_s: seconds between two looks.
        repeat_s: seconds between two messages about the same.
        clock: of the samples, in s; asked once a look.
        late_s: seconds that a message waits before the thread tells it.
        unsaid: kinds of messages that are left to another process.
    """

    def __init__(
        self,
        open_gpu: Callable[[], NvmlGpu],
        where: str = "",
        period_s: float = 1.0,
        repeat_s: float = 1800.0,
        clock: Callable[[], float] = time.monotonic,
        late_s: float = 10.0,
        unsaid: Collection[Kind] = (),
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
        """Held for the numbers below alone."""
        self._recent, self._whole = Aggregate(), Aggregate()
        self._counters: dict[str, int] = {}
        self._faults: list[str] = []
        """All lines but those about what cannot be read; the first 100."""
        self._messages: deque[tuple[float, Message]] = deque(maxlen=_MOST_MESSAGES)
        """With the time at which they were due, in s of the monotonic clock."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self.run, name="gpu-health", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns when the thread has ended, or after 3 s, for a driver may never answer."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(_END_S)

    @property
    def is_running(self) -> bool:
        """Whether the thread lives: the GPU is watched, or something is left to say."""
        return self._thread.is_alive()

    def take(self) -> Aggregate:
        """What was seen since this was last asked."""
        with self._lock:
            taken, self._recent = self._recent, Aggregate()
        return taken

    @property
    def has_messages(self) -> bool:
        """Whether any are not told yet."""
        return bool(self._messages)

    def take_messages(self) -> list[Message]:
        """Those that are not told yet, oldest first."""
        return self._take(due_before_s=math.inf)

    def report(self) -> dict[str, Any]:
        """The whole time, for JSON; empty where nothing was seen. Values that are not told are left out."""
        facts = self.facts
        with self._lock:
            seen, counters, faults = self._whole.as_dict(), dict(self._counters), list(self._faults)
        if facts is None:
            return {"faults": faults} if faults else {}
        known = {name: getattr(facts, name) for name in _CONSTANTS}
        told = {name: value for name, value in known.items() if value is not None}
        return {**told, **counters, **seen, "faults": faults}

    # -- on the thread -----------------------------------------------------------------------------

    def run(self) -> None:
        """Sample until told to stop, or until there is nothing to sample; raises nothing."""
        title = f"GPU health{self._where}"
        try:
            gpu = self._open_gpu()
        except NvmlUnavailable as error:
            self._say([Message("nvml", f"{title}: not watched: {error}")])
        except GpuLost as error:
            self._say([FaultWatch(GpuFacts(), self._where).lost(str(error), error.xids)])
        except Exception as error:  # a look at the GPU is not worth a run
            self._say([Message("nvml", f"{title}: not watched: {type(error).__name__}: {error}")])
        else:
            try:
                self._watch(gpu)
            except Exception as error:
                self._say([Message("nvml", f"{title}: watched no more: {type(error).__name__}: {error}")])
            finally:
                gpu.close()
        while self._messages and not self._stopping.is_set():  # somebody has to tell them
            self._tell_late()
            self._stopping.wait(self._period_s)

    def _watch(self, gpu: NvmlGpu) -> None:
        """Sample until told to stop, or until the GPU is lost."""
        self.facts = gpu.facts
        watch = FaultWatch(gpu.facts, self._where, self._repeat_s)
        meter = ThrottleMeter(gpu.facts.max_sm_clock_mhz)
        before_s: float | None = None
        looks = 0
        while not self._stopping.is_set():
            now_s = self._clock()
            try:
                reading = gpu.read(thoroughly=looks % _THOROUGH_EVERY == 0)
            except GpuLost as error:
                self._say([watch.lost(str(error), error.xids)])
                return
            seconds = 0.0 if before_s is None else now_s - before_s
            before_s, looks = now_s, looks + 1
            throttling = meter.see(reading, seconds)
            self._keep(reading, throttling, seconds)
            self._say(watch.see_left_out(gpu.unsupported, gpu.forbidden))
            self._say(watch.see(now_s, reading, throttling, seconds))
            self._tell_late()
            self._stopping.wait(self._period_s)

    def _keep(self, reading: Reading, throttling: Throttling, seconds: float) -> None:
        values = {name: getattr(reading, name) for name in _COUNTERS}
        with self._lock:
            self._counters |= {name: value for name, value in values.items() if value is not None}
            for aggregate in (self._recent, self._whole):
                aggregate.add(reading, throttling, seconds)

    def _say(self, messages: list[Message]) -> None:
        for message in messages:
            if message.kind not in self._unsaid:
                self._messages.append((time.monotonic(), message))
            if message.kind != "unsupported" and len(self._faults) < _MOST_MESSAGES:
                with self._lock:
                    self._faults.append(message.line)

    def _tell_late(self) -> None:
        """Tell what nobody has taken; in one write, so that it stays whole."""
        for message in self._take(due_before_s=time.monotonic() - self._late_s):
            with contextlib.suppress(OSError, ValueError):  # standard error may be closed
                sys.stderr.write(f"{message.line}\n")
                sys.stderr.flush()

    def _take(self, due_before_s: float) -> list[Message]:
        """Take out the messages that were due by then; on either thread."""
        taken = []
        with self._lock:
            while self._messages and self._messages[0][0] <= due_before_s:
                taken.append(self._messages.popleft()[1])
        return taken
