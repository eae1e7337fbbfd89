"""Signals that ask a run to stop: noted at once, acted on at the end of a batch.

Nothing is done inside a handler but to note the signal: what saves a checkpoint may be in the middle
of changing what is to be saved, and a collective there would wait for ranks that wait for this one.
Imports nothing that takes time, so that the handlers are in place as soon as a process has started:
until then SIGUSR1, by which Slurm gives notice, ends a process.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

EXIT_STATUS = 75
"""Of a run that was asked to stop and has saved itself: EX_TEMPFAIL of sysexits.h, "try again later"."""

_SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]


class _State:
    received: str | None = None
    is_training = False
    listens = False
    """Whether signals are written into a descriptor of ours."""


def received() -> str | None:
    """Name of the first signal that asked to stop, or None."""
    return _State.received


def training_begins() -> None:
    """From here on there is something to save: SIGINT and SIGTERM no longer end the process at once."""
    _State.is_training = True


def training_has_begun() -> bool:
    """Whether :func:`training_begins` was called since the program began to watch."""
    return _State.is_training


@contextmanager
def watching(is_program: bool = False) -> Iterator[None]:
    """Note signals while the block runs; in a thread that is not the main one, which gets none, nothing.

    Args:
        is_program: The process ends with the block. If it was asked to, it then ignores those who ask again,
            as Slurm does of every process of a job, so that its exit status is its own.
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
        signal.signal(number, signal.SIG_DFL)  # the next one ends the process, whatever it is doing
        if nothing_to_save:
            os.kill(os.getpid(), number)  # so that the shell sees what ended it
    elif number == signal.SIGTERM and nothing_to_save:
        sys.exit(EXIT_STATUS)


@contextmanager
def _ending_at_second_interrupt() -> Iterator[None]:
    """End the process at a second SIGINT also where the main thread never comes to handle the first.

    While it waits in C code, as for a rank that will not answer, the interpreter only remembers that
    a signal came, not how often. What it does at once, in whatever thread it is, is to write each
    into the wakeup descriptor; a thread reads them here.
    """
    receiver, sender = socket.socketpair()
    with receiver, sender:
        sender.setblocking(False)
        theirs = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        if theirs != -1:  # there is only one, and an event loop reads it, as in Jupyter
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
                if theirs != sender.fileno():
                    signal.set_wakeup_fd(theirs)
                sender.shutdown(socket.SHUT_WR)
                reader.join()


def _await_second_interrupt(receiver: socket.socket) -> None:
    seen = 0
    while seen < 2:
        numbers = receiver.recv(64)
        if not numbers:
            return
        seen += numbers.count(signal.SIGINT)
    _end_as_interrupted()


def _end_as_interrupted() -> NoReturn:
    """End by SIGINT itself, as after a first one that was handled, so that the shell sees what ended it."""
    with suppress(AttributeError):  # of the interpreter itself, since signal.signal is for the main thread
        ctypes.pythonapi.PyOS_setsig(signal.SIGINT, None)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(128 + signal.SIGINT)


_forking = threading.local()


def _before_fork() -> None:
    """Let no SIGINT of the new process count as one of this: for a moment they share the descriptor."""
    if _State.listens:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _after_fork() -> None:
    if hasattr(_forking, "mask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)
        del _forking.mask


def _after_fork_in_child() -> None:
    if _State.listens:
        signal.set_wakeup_fd(-1)
        _State.listens = False
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


def in_slurm_job() -> bool:
    """Whether this is a batch job of Slurm, which can be queued again; an interactive one cannot."""
    interactive = os.environ.get("SLURM_JOB_NAME") in {"bash", "interactive"}
    return "SLURM_JOB_ID" in os.environ and not interactive


def requeue() -> str:
    """Put this Slurm job back into the queue, unless it is being ended; a sentence on what happened."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    with suppress(OSError, subprocess.SubprocessError):  # without an answer it is tried
        state = re.search(r"\bJobState=(\w+)", _scontrol("show", "job", "-o", job))
        if state and state[1] != "RUNNING":  # to queue a cancelled job would bring it back
            return f"Slurm is ending job {job} ({state[1]}); what becomes of it is Slurm's to decide"
    try:
        _scontrol("requeue", job)
    except subprocess.CalledProcessError as error:
        return f"Slurm job {job} could not be queued again: {' '.join(error.stderr.split())}"
    except (OSError, subprocess.SubprocessError) as error:
        return f"Slurm job {job} could not be queued again: {error}"
    return f"Slurm job {job} is queued again and will go on from there"


def _scontrol(*arguments: str) -> str:
    command = ["scontrol", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
