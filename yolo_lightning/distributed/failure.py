"""Failure of a run: one process reports it, the others end in silence; a call that hangs is left behind."""

from __future__ import annotations

import atexit
import errno
import hashlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TypeVar

from ..errors import InputError
from ..system.text import last_line

T = TypeVar("T")

SIBLINGS_S = 3.0
"""Longest time between failures of one host that have the same reason, in s."""
_TO_PRINT_S = 2.0
"""Time for the reporting process to print its sentence, in s."""
LEAVE_S = 10.0
"""Time for a failed process to end by itself, in s."""

_held: list[socket.socket] = []
"""Names of what this process said, taken until it ends."""
_failing = threading.Event()
_must_leave = threading.Event()


class FailedElsewhere(InputError):
    """Another process says what is wrong: this one ends with status 2 and prints nothing."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        _failing.set()


def is_failing() -> bool:
    """True once this process knows that the run ends because something is wrong.

    SIGTERM from its launcher is then no request to save a healthy run.
    """
    return _failing.is_set()


def say_on_host(sentence: str, subject: str) -> InputError:
    """Return the exception for what other hosts cannot learn: loud in one process of this host, else quiet.

    The quiet ones get it after the loud one has printed the sentence, because a launcher that sees any
    process end ends the others. All processes of the host that would say the same give the same subject.
    """
    _failing.set()
    if _is_first_on_host(subject):
        return InputError(sentence)
    time.sleep(SIBLINGS_S + _TO_PRINT_S)
    return FailedElsewhere(sentence)


def _is_first_on_host(subject: str) -> bool:
    """Take the name of a subject, a socket; False if another process of this run and host has it."""
    step = "/".join(os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    address = ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    run = os.environ.get("TORCHELASTIC_RUN_ID") or step.strip("/") or address.strip(":") or os.getppid()
    digest = hashlib.sha256(f"{os.getuid()}/{run}/{subject}".encode()).hexdigest()[:16]
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0yolo_lightning/{digest}")  # no file: the name ends with the process
    except OSError as error:
        name.close()
        return error.errno != errno.EADDRINUSE
    _held.append(name)
    time.sleep(SIBLINGS_S)  # those that come a little later find it taken
    return True


def end_soon(seconds: float = LEAVE_S) -> None:
    """Let this process end with status 2: first by itself, at last by force, as NCCL or gloo may hold it."""
    _failing.set()
    _must_leave.set()
    timer = threading.Timer(seconds, _leave)
    timer.daemon = True
    timer.start()


def _leave() -> None:
    if _must_leave.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)


# Registered before anything that a run registers, it is called last: caches have been removed, and the
# destructors of a process group that hangs are never reached.
atexit.register(_leave)


@atexit.register
def _await_threads() -> None:
    """Let threads of finished calls end: Python aborts a process that ends while one returns from torch."""
    for thread in threading.enumerate():
        if thread.name == "preflight":
            thread.join(1)


def bounded(call: Callable[[], T], seconds: float) -> T:
    """Return or raise what a call does, if it ends in time. One that hangs is left behind in its thread.

    Signals are handled while the call runs, also where it waits in C code.

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


def name_ranks(ranks: Sequence[int], hosts: Mapping[int, str]) -> str:
    """Name ranks and where they are: ``rank 1 on a``, ``ranks 2, 3 on b``, ``ranks 1, 2 (a, b)``.

    Ranks without a host are named without it.
    """
    word = "rank" if len(ranks) == 1 else "ranks"
    numbers = _shorten([str(rank) for rank in ranks])
    names = list(dict.fromkeys(hosts[rank] for rank in ranks if rank in hosts))
    if not names:
        return f"{word} {numbers}"
    return f"{word} {numbers} on {names[0]}" if len(names) == 1 else f"{word} {numbers} ({_shorten(names)})"


def _shorten(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def describe_error(error: Exception) -> str:
    """Describe an error in one line; unless it is wrong input, with its place in the code."""
    text = last_line(error)
    if isinstance(error, InputError):
        return text
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(frame.filename).name}:{frame.lineno})"


def describe_failures(failures: Mapping[int, str], hosts: Mapping[int, str], world_size: int) -> str:
    """Join the failures of ranks (rank to sentence) into one line, equal sentences only once."""
    ranks: dict[str, list[int]] = {}
    for rank, sentence in sorted(failures.items()):
        ranks.setdefault(" ".join(sentence.split()), []).append(rank)
    if len(ranks) == 1 and len(failures) == world_size:
        return f"{next(iter(ranks))} (on all {world_size} ranks)" if world_size > 1 else next(iter(ranks))
    said = [f"{name_ranks(group, hosts)}: {sentence}" for sentence, group in ranks.items()]
    more = f" | and {len(said) - 4} other failures" if len(said) > 4 else ""
    return " | ".join(said[:4]) + more
