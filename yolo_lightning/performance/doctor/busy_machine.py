"""Whether other programs took the cores while something was timed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

DISTURBED = 0.1
"""Part of the time that threads of this process may have waited for a core before a timing is doubted."""


class Disturbance:
    """How long the threads of this process, together, waited for a core, as a part of the wall time.

    Two threads that compute in step both stand still when one of them has lost its core: a step on a
    busy machine takes ten times as long as on a quiet one, and no median helps. So it is looked at.
    """

    def __init__(self, tasks: Path = Path("/proc/self/task")) -> None:
        self._tasks = tasks
        self._began, self._waited_before = time.perf_counter(), self._waited_s()

    def fraction(self) -> float:
        """Since this was made; above 1 where several threads waited at once, NaN where Linux is not there."""
        seconds = time.perf_counter() - self._began
        return (self._waited_s() - self._waited_before) / seconds if seconds > 0 else 0.0

    def _waited_s(self) -> float:
        waited_ns = 0
        try:
            for task in self._tasks.iterdir():
                try:
                    waited_ns += int((task / "schedstat").read_text().split()[1])
                except FileNotFoundError:  # the thread has ended
                    continue
        except (OSError, IndexError, ValueError):
            return math.nan
        return waited_ns / 1e9


def is_disturbed(fraction: float) -> bool:
    """Whether timings made meanwhile are to be doubted; not where nothing is known."""
    return fraction > DISTURBED


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
