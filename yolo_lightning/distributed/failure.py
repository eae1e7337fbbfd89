"""Failure of a run: one process reports it, and the others end in silence."""

from __future__ import annotations

import atexit
import hashlib
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import InputError
from ..system.text import last_line

SIBLINGS_S = 3.0
"""Longest time between failures of one host that have the same reason, in s."""
_TO_PRINT_S = 2.0
"""Time for the reporting process to print its sentence, in s."""
LEAVE_S = 10.0
"""Time for a failed process to end by itself, in s."""

_held: list[int] = []
"""Locks of what this process said, held until it ends."""
_must_leave = threading.Event()


class _State:
    is_failing = False


class FailedElsewhere(InputError):
    """Another process says what is wrong: this one ends with status 2 and prints nothing."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        _State.is_failing = True


def is_failing() -> bool:
    """True once this process knows that the run ends because something is wrong.

    SIGTERM from its launcher is then no request to save a healthy run.
    """
    return _State.is_failing


def say_on_host(sentence: str, subject: str) -> InputError:
    """Return the exception for what other hosts cannot learn: loud in one process of this host, else quiet.

    The quiet ones get it after the loud one has printed the sentence, because a launcher that sees any
    process end ends the others.

    Args:
        sentence: what is wrong, and what to do.
        subject: the same for all processes of the host that would say the same.
    """
    _State.is_failing = True
    if _is_first_on_host(subject):
        return InputError(sentence)
    time.sleep(SIBLINGS_S + _TO_PRINT_S)
    return FailedElsewhere(sentence)


def _is_first_on_host(subject: str) -> bool:
    """Take the lock of a subject; False if another process of this run and host holds it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    step = "/".join(os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    address = ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    run = os.environ.get("TORCHELASTIC_RUN_ID") or step.strip("/") or address.strip(":") or os.getppid()
    digest = hashlib.sha256(f"{os.getuid()}/{run}/{subject}".encode()).hexdigest()[:16]
    path = os.path.join(tempfile.gettempdir(), f"yolo_lightning_{digest}.lock")
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        return not isinstance(error, BlockingIOError)  # a file system may have no locks
    _held.append(lock)
    time.sleep(SIBLINGS_S)  # those that come a little later find the lock held
    os.unlink(path)
    return True


def end_soon() -> None:
    """Let this process end with status 2: first by itself, at last by force, as NCCL or gloo may hold it."""
    _State.is_failing = True
    _must_leave.set()

    def force() -> None:
        time.sleep(LEAVE_S)
        _leave()

    threading.Thread(target=force, daemon=True, name="preflight-end").start()


def _leave() -> None:
    if _must_leave.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)


# Registered before anything that a run registers, it is called last: caches have been removed, and the
# destructors of a process group that hangs are never reached.
atexit.register(_leave)


def name_ranks(ranks: Sequence[int], hosts: Mapping[int, str]) -> str:
    """Name ranks and where they are: ``rank 1 on a``, ``ranks 2, 3 on b``, ``ranks 1, 2 (a, b)``.

    Args:
        ranks: at least one, ascending.
        hosts: rank to host; unknown hosts are left out.
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
    """Join the failures of ranks into one line; the same sentence of several ranks once.

    Args:
        failures: rank to its sentence, at least one.
        hosts: rank to host.
        world_size: processes of the run.
    """
    ranks: dict[str, list[int]] = {}
    for rank, sentence in sorted(failures.items()):
        ranks.setdefault(" ".join(sentence.split()), []).append(rank)
    if len(ranks) == 1 and len(failures) == world_size:
        return f"{next(iter(ranks))} (on all {world_size} ranks)" if world_size > 1 else next(iter(ranks))
    said = [f"{name_ranks(group, hosts)}: {sentence}" for sentence, group in ranks.items()]
    more = f" | and {len(said) - 4} other failures" if len(said) > 4 else ""
    return " | ".join(said[:4]) + more
