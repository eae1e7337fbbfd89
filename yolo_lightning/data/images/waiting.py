"""Waiting for images: a hang or a lost worker is reported within a minute, and no wait is endless."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from ...errors import InputError
from ...system.text import duration
from ..cache_folder import available_memory
from .faults import Faults

T = TypeVar("T")

POLL_S = 5
"""Longest time of one attempt, in s."""
SAY_AFTER_S, AGAIN_S, GIVE_UP_S = 30.0, 60.0, 600.0
"""Times after which a wait is reported, is reported again, and ends the run, in s."""

MORE_SHARED_MEMORY = (
    "mount it larger (docker run --shm-size 8g), or set a smaller --data.num_workers, such as 0"
)


class WorkerLost(InputError):
    """A worker process has ended before its time."""


def wait(attempt: Callable[[], T], faults: Faults, processes: Sequence[BaseProcess] = ()) -> T:
    """Return what ``attempt`` returns; it is called again after each time-out.

    Args:
        attempt: Waits for ``POLL_S`` at most; ``__next__`` of a ``DataLoader``'s iterator, for example.
        faults: What is being read.
        processes: Workers that are waited for; they are killed in the end.

    Raises:
        WorkerLost: One of ``processes`` has ended.
        InputError: The time is up.
    """
    began, said = time.monotonic(), -AGAIN_S
    while True:
        try:
            return attempt()
        except multiprocessing.TimeoutError:
            pass
        except RuntimeError as error:
            for process in processes:
                if not process.is_alive():
                    raise WorkerLost(_describe_loss(process, faults)) from None
            if "allocate shared memory" in str(error):
                raise InputError(
                    f"/dev/shm is full; {MORE_SHARED_MEMORY}, and resume with --ckpt_path last"
                ) from None
            if not str(error).startswith("DataLoader timed out"):
                raise
        now = time.monotonic()
        reason = _reason(faults, processes if now - began >= SAY_AFTER_S else ())
        if now - began >= GIVE_UP_S:
            end_workers(processes)
            reason = reason or "the loader does nothing"
            raise InputError(
                f"no images for {duration(now - began)}: {reason}; mend it and resume with --ckpt_path last"
            )
        if reason and now - said >= AGAIN_S:
            faults.announce(f"waiting for images: {reason}")
            said = now


def start_workers(loader: Any, start: Callable[[], Iterator[Any]], faults: Faults) -> Iterator[Any]:
    """Return the iterator that ``start``, the ``__iter__`` of a ``DataLoader``, gives.

    Workers that stay from one iteration to the next are replaced if they have ended or do not answer.
    Torch would raise an error wherever the main thread is when a worker ends; instead, :func:`wait` does.
    """
    before = signal.getsignal(signal.SIGCHLD)
    try:
        batches = start()
    except RuntimeError:
        faults.announce("loader workers have ended or do not answer; new ones take their place")
        workers, loader._iterator = workers_of(loader._iterator), None
        end_workers(workers)
        batches = start()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)
    return batches


def workers_of(batches: Any) -> Sequence[BaseProcess]:
    """The worker processes of a ``DataLoader``'s iterator."""
    return getattr(batches, "_workers", ())


def end_workers(processes: Sequence[BaseProcess]) -> None:
    """Kill workers that have not ended: one that is stopped would keep this program from ending."""
    for process in processes:
        process.kill()


def _reason(faults: Faults, processes: Sequence[BaseProcess]) -> str | None:
    """Reason of a wait; None if nothing is unusual."""
    for process in processes:
        if _is_stopped(process.pid):
            return f"loader worker {process.pid} is stopped, and goes on after kill -CONT {process.pid}"
    slowest = faults.slowest()
    if slowest is None or slowest[1] < SAY_AFTER_S:
        return None
    return f"{slowest[0]} has been read for {duration(slowest[1])}, as if its disk or network does not answer"


def _is_stopped(pid: int | None) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except OSError:  # it has ended, or the system has no /proc
        return False


def _describe_loss(process: BaseProcess, faults: Faults) -> str:
    """Describe the end of a worker, and the remedy."""
    status, slowest = process.exitcode or 0, faults.slowest()
    cause = signal.Signals(-status).name if status < 0 else f"status {status}"
    remedy = "look at the log of the system"
    if status == -signal.SIGKILL:
        cause += f", as the kernel does if memory runs out ({available_memory() / 1e9:.1f} GB are free now)"
        remedy = "set a smaller --data.num_workers or --data.batch_size"
    elif status == -signal.SIGBUS:
        cause += ", most likely as /dev/shm is full"
        remedy = MORE_SHARED_MEMORY
    elif slowest:
        cause += f" while it read {slowest[0]}"
        remedy = "replace or remove that image"
    return f"loader worker {process.pid} has ended by {cause}; {remedy}, and resume with --ckpt_path last"
