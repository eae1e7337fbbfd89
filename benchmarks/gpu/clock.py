"""The clocks: of whole epochs, with the device finished at both ends, and of steps."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


class Measured(Exception):
    """Raised out of a trainer when enough was timed; its process ends with that."""


class EpochClock:
    """Takes the time of epochs, from before the first batch is asked for to the end of the last one's step.

    The first epoch compiles, fills caches and starts workers, and is left out.

    Args:
        seconds: least time that is wanted on the clock.
        device: ``cuda`` or ``cpu``.
    """

    def __init__(self, seconds: float, device: str) -> None:
        self.seconds = seconds
        self.device = device
        self.epochs: list[tuple[float, float]] = []
        self._begin = 0.0

    def start(self, *_: Any, **__: Any) -> None:
        """An epoch begins."""
        self._finish_device()
        self._begin = time.perf_counter()

    def stop(self, *_: Any, **__: Any) -> None:
        """Its last step is launched."""
        self._finish_device()
        self.epochs.append((self._begin, time.perf_counter()))

    @property
    def has_enough(self) -> bool:
        """Whether the epochs after the first one last long enough together."""
        later = self.epochs[1:]
        return bool(later) and sum(end - begin for begin, end in later) >= self.seconds

    def reading(self, images: int) -> dict[str, Any]:
        """Images/s of the median epoch after the first, and of all of them with the pauses in between.

        Args:
            images: of an epoch.
        """
        later = self.epochs[1:]
        durations = [end - begin for begin, end in later]
        return {
            "images_per_second": images / statistics.median(durations),
            "images_per_second_with_pauses": images * len(later) / (later[-1][1] - later[0][0]),
            "images_an_epoch": images,
            "epoch_seconds": [round(duration, 4) for duration in durations],
        }

    def _finish_device(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


def time_steps(step: Callable[[], Any], device: str, count: int) -> list[float]:
    """Durations of ``count`` steps in ms; on CUDA, by its own clock, from the end of one to that of the next.

    Steps are launched without waiting for the device, as in training.
    """
    if not device.startswith("cuda"):
        ends = [time.perf_counter()]
        for _ in range(count):
            step()
            ends.append(time.perf_counter())
        return [1000 * (after - before) for before, after in itertools.pairwise(ends)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in itertools.pairwise(events)]
