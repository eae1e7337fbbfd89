"""OpenMP's threads: how those of torch wait for each other."""

from __future__ import annotations

import ctypes
import os
import threading


class SleepingThreads:
    """Has the threads of torch's operators sleep while they wait for each other, instead of spinning.

    GNU's OpenMP, which torch brings on Linux, has threads spin for some 10 ms before they sleep, which is
    fastest on free cores. If another program takes a core, they burn the time that the late one needs.
    ``GOMP_SPINCOUNT`` shortens that for a whole process, and costs a tenth or more on free cores. But the
    library itself spins for microseconds only as long as there are more OpenMP threads than cores (see
    ``GOMP_SPINCOUNT`` in its manual). So a thread of ours keeps a team of idle ones while they shall sleep.
    The number of threads of an operator stays, and so do its results.
    """

    def __init__(self) -> None:
        self._release: threading.Event | None = None

    @property
    def active(self) -> bool:
        return self._release is not None

    def start(self) -> None:
        """Begin to sleep; nothing without GNU's OpenMP."""
        library = _gnu_openmp()
        if self.active or library is None:
            return
        self._release, parked = threading.Event(), threading.Event()
        threading.Thread(
            target=_keep_team, args=(library, parked, self._release), name="idle-team", daemon=True
        ).start()
        parked.wait()

    def stop(self) -> None:
        """Spin again."""
        if self._release is not None:
            self._release.set()  # the thread ends, and its team with it
            self._release = None


def _keep_team(library: ctypes.CDLL, parked: threading.Event, release: threading.Event) -> None:
    threads = len(os.sched_getaffinity(0)) + 1
    # Any function without arguments serves as the body of the parallel region.
    library.GOMP_parallel(library.omp_get_thread_num, None, threads, 0)
    parked.set()
    release.wait()


def _gnu_openmp() -> ctypes.CDLL | None:
    """The library, if torch has loaded it."""
    if not hasattr(os, "RTLD_NOLOAD"):
        return None
    try:
        return ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
    except OSError:
        return None
