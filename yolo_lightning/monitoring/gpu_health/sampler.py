"""A thread that reads a GPU every second, so that training never waits for NVML."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import torch

from .faults import FaultWatch
from .nvml import FORBIDDEN, LOST, NvmlGpu, NvmlUnavailable, open_gpu
from .summary import Aggregate, ThrottleMeter

PERIOD_S = 1.0
"""Time between two readings."""
_THOROUGH_EVERY = 5
"""Readings from one thorough one to the next."""
_END_S = 3.0
"""Time that the thread is given to end."""


class GpuSampler:
    """Samples one GPU on a thread of its own, from now on until :meth:`stop`.

    No method waits for NVML. The thread reports each fault at once, also while training hangs. Sampling
    ends by itself when the GPU is lost or cannot be read.

    Args:
        device: the GPU.
        say: prints a line; called on the thread.
        where: text after the GPU's title in lines, such as rank and host.
        says_general: also say what holds for all GPUs of a host, such as that NVML is missing.
    """

    def __init__(
        self, device: torch.device, say: Callable[[str], None], where: str = "", says_general: bool = True
    ) -> None:
        self._device = device
        self._say = say
        self._where = where
        self._says_general = says_general
        self._lock = threading.Lock()
        """Guards the attributes below."""
        self._facts: dict[str, Any] = {}
        """Known once the thread has opened the GPU; with the newest counters."""
        self._recent = Aggregate()
        self._whole = Aggregate()
        self._faults: list[str] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu-health", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; returns when the thread has ended, or after 3 s, since a driver may never answer."""
        self._stopping.set()
        self._thread.join(_END_S)

    def take(self) -> Aggregate:
        """Summary of the readings since the last call."""
        with self._lock:
            taken, self._recent = self._recent, Aggregate()
        return taken

    def report(self) -> dict[str, Any]:
        """Summary of all readings for JSON; empty if there were none. Unknown values are left out."""
        with self._lock:
            faults = {"faults": list(self._faults)}
            if self._facts:
                return {**self._facts, **self._whole.as_dict(), **faults}
            return faults if self._faults else {}

    # -- on the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        """Sample until stopped, or until there is nothing to sample; raises nothing."""
        title = f"GPU health{self._where}"
        faults = FaultWatch({}, self._where)
        try:
            with open_gpu(self._device) as gpu:
                faults = FaultWatch(gpu.facts, self._where)
                self._watch(gpu, faults)
        except LOST as error:
            self._report(faults.lost(error))
        except NvmlUnavailable as error:
            self._report([f"{title}: not watched: {error}"], is_general=True)
        except Exception as error:  # GPU health must never end a run
            self._report([f"{title}: not watched any more: {type(error).__name__}: {error}"], is_general=True)

    def _watch(self, gpu: NvmlGpu, faults: FaultWatch) -> None:
        """Sample until stopped."""
        self._facts = dict(gpu.facts)
        meter = ThrottleMeter(gpu.facts.get("max_sm_clock_mhz"))
        before_s: float | None = None
        count = 0
        while not self._stopping.is_set():
            now_s = monotonic()
            self._report(faults.see_xids(gpu.take_xids()))  # before a reading finds the GPU lost
            reading = gpu.read(thoroughly=count % _THOROUGH_EVERY == 0)
            interval = meter.see(reading, 0.0 if before_s is None else now_s - before_s)
            before_s = now_s
            count += 1
            with self._lock:
                self._facts |= reading.counters
                self._recent.add(interval)
                self._whole.add(interval)
            for why, line in faults.see_left_out(gpu.left_out).items():  # what a GPU lacks is no fault
                self._report([line], is_general=True, is_fault=why == FORBIDDEN)
            self._report(faults.see(now_s, interval))
            self._stopping.wait(PERIOD_S)

    def _report(self, lines: list[str], is_general: bool = False, is_fault: bool = True) -> None:
        for line in lines:
            if is_fault:
                self._faults.append(line)
            if not is_general or self._says_general:
                with contextlib.suppress(Exception):  # the output may be closed, or training may be over
                    self._say(line)
