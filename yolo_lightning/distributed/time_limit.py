"""Calls that return in time, or are left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")


def bounded(call: Callable[[], T], seconds: float | None) -> T:
    """Return or raise what a call does, if it ends in time. One that hangs is left behind in its thread.

    Signals are handled while the call runs, also where it waits in C code.

    Args:
        call: runs in a thread.
        seconds: limit; None waits without one.

    Raises:
        TimeoutError: The call does not end in time.
    """
    future = begin(call)
    if not wait([future], seconds).done:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return future.result()


def begin(call: Callable[[], T]) -> Future[T]:
    """Start a call in a thread that does not keep the process from ending."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="preflight").start()
    return future
