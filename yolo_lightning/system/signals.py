"""Signals that ask a run to stop: noted at once, acted on at the end of a batch.

A handler only notes the signal. To save there would catch weights in the middle of a change, and a
collective there would wait for ranks that wait for this one. This file imports nothing slow, because
SIGUSR1, with which Slurm gives notice, kills a process that has no handler yet.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

EXIT_STATUS = 75
"""Exit status of a run that was asked to stop and has saved itself: EX_TEMPFAIL, "try again later"."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


_END = b"\0"
"""Number of no signal; the end of the pipe would not do, which new processes hold open."""


class _State:
    received: str | None = None
    is_training = False
    listens = False  # true while signals are written into a descriptor of ours


def received() -> str | None:
    """Name of the first signal that asked to stop, or None."""
    return _State.received


def training_begins() -> None:
    """Note that there is something to save: SIGINT and SIGTERM no longer end the process at once."""
    _State.is_training = True


def training_has_begun() -> bool:
    """True after :func:`training_begins`."""
    return _State.is_training


@contextmanager
def watching(is_program: bool = False) -> Iterator[None]:
    """Note signals while the block runs; only in the main thread, as others receive none.

    Args:
        is_program: True if the process ends with the block. Once asked to stop, it then ignores further
            requests, so that its exit status is its own: Slurm sends them to every process of a job.
    """
    _State.received, _State.is_training = None, False
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _note) for number in _SIGNALS}
    try:
        with _ending_at_second_interrupt():
            yield
    finally:
        ends = is_program and _State.received is not None
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if ends and number != signal.SIGINT else handler)


def _note(number: int, frame: object) -> None:
    nothing_to_save = not _State.is_training and not in_slurm_job()
    _State.received = _State.received or signal.Signals(number).name
    if number == signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)  # the next one ends the process at once
        if nothing_to_save:
            os.kill(os.getpid(), number)  # so that the shell sees what ended it
    elif number == signal.SIGTERM and nothing_to_save:
        sys.exit(EXIT_STATUS)


@contextmanager
def _ending_at_second_interrupt() -> Iterator[None]:
    """End the process at a second SIGINT, even if the main thread hangs in C code.

    Python runs handlers in the main thread only, between its instructions. But it writes each signal into
    the wakeup descriptor at once, which a thread reads here.
    """
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    theirs = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    try:
        if theirs != -1:  # an event loop has taken the only descriptor, as in Jupyter
            signal.set_wakeup_fd(theirs)
            yield
            return
        reader = threading.Thread(target=_await_second_interrupt, args=(receiver,), daemon=True)
        reader.start()
        _State.listens = True
        try:
            yield
        finally:
            if _State.listens:  # not in a process that was forked from this one
                _State.listens = False
                theirs = signal.set_wakeup_fd(-1)
                if theirs != sender:
                    signal.set_wakeup_fd(theirs)
                os.write(sender, _END)
                reader.join()
    finally:
        os.close(sender)
        os.close(receiver)


def _await_second_interrupt(receiver: int) -> None:
    seen = 0
    while seen < 2:
        numbers = os.read(receiver, 64)
        if _END in numbers:
            return
        seen += numbers.count(signal.SIGINT)
    # By the signal itself, so that the shell sees what ended the process.
    with suppress(AttributeError):  # signal.signal works in the main thread only
        ctypes.pythonapi.PyOS_setsig(signal.SIGINT, None)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(128 + signal.SIGINT)


_forking = threading.local()


def _before_fork() -> None:
    """Block SIGINT: until the new process lets go of the descriptor, its signals would count here."""
    if _State.listens:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _after_fork() -> None:
    if hasattr(_forking, "mask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)
        del _forking.mask


def _after_fork_in_child() -> None:
    if _State.listens:  # the descriptor is the parent's
        signal.set_wakeup_fd(-1)
        _State.listens = False
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


def in_slurm_job() -> bool:
    """True in a batch job of Slurm, which can be queued again; an interactive job cannot."""
    interactive = os.environ.get("SLURM_JOB_NAME") in {"bash", "interactive"}
    return "SLURM_JOB_ID" in os.environ and not interactive


def requeue() -> str:
    """Put this Slurm job back into the queue, unless Slurm is ending it. Returns a sentence for the log."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    with suppress(OSError, subprocess.SubprocessError):  # without an answer, try to queue it
        state = re.search(r"\bJobState=(\w+)", _scontrol("show", "job", "-o", job))
        if state and state[1] != "RUNNING":  # to queue a cancelled job would bring it back
            return f"Slurm is ending job {job} ({state[1]}); Slurm decides whether it runs again"
    try:
        _scontrol("requeue", job)
    except subprocess.CalledProcessError as error:
        return f"Slurm job {job} could not be queued again: {' '.join(error.stderr.split())}"
    except (OSError, subprocess.SubprocessError) as error:
        return f"Slurm job {job} could not be queued again: {error}"
    return f"Slurm job {job} is queued again and will resume from there"


def _scontrol(*arguments: str) -> str:
    command = ["scontrol", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
