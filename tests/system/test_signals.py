"""Signals are noted; what they end at once, and how a Slurm job is queued again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from yolo_lightning.system import signals as preemption


@pytest.fixture(autouse=True)
def outside_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_in_training_is_noted(name: str) -> None:
    with preemption.watching():
        preemption.training_begins()
        assert preemption.received() is None
        os.kill(os.getpid(), signal.Signals[name])
        assert preemption.received() == name
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.received() == name  # the first one counts
    with preemption.watching():
        assert preemption.received() is None


def test_in_another_thread_nothing_is_watched() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def watch() -> None:
        with preemption.watching():
            found.append(signal.getsignal(signal.SIGTERM))

    found: list[object] = []
    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert found == [before]


def status(code: str, **environment: str) -> int:
    program = (
        f"import os, signal, sys\nfrom yolo_lightning.system.signals import *\nwith watching():\n  {code}"
    )
    return subprocess.run([sys.executable, "-c", program], env={**os.environ, **environment}).returncode


KILL = "os.kill(os.getpid(), signal.{})"


@pytest.mark.parametrize(("body", "expected"), [(KILL.format("SIGUSR1"), 75), ("pass", -signal.SIGTERM)])
def test_a_program_that_was_asked_to_stop_ends_in_its_own_way(body: str, expected: int) -> None:
    watched = f"with watching(is_program=True):\n  {body}\n{KILL.format('SIGTERM')}\nsys.exit(75)"
    program = f"import os, signal, sys\nfrom yolo_lightning.system.signals import *\n{watched}"
    assert subprocess.run([sys.executable, "-c", program]).returncode == expected


def test_before_training_begins_there_is_nothing_to_wait_for() -> None:
    assert status(KILL.format("SIGINT")) == -signal.SIGINT
    assert status(KILL.format("SIGTERM")) == preemption.EXIT_STATUS
    assert status(KILL.format("SIGUSR1") + "; sys.exit(0 if received() else 1)") == 0


def test_a_slurm_job_waits_until_it_can_be_queued_again() -> None:
    assert status(KILL.format("SIGTERM") + "; sys.exit(received() != 'SIGTERM')", SLURM_JOB_ID="7") == 0


def test_a_second_interrupt_ends_at_once() -> None:
    kill = KILL.format("SIGINT")
    assert status(f"training_begins(); {kill}; sys.exit(received() != 'SIGINT')") == 0
    assert status(f"training_begins(); {kill}; {kill}; sys.exit(0)") == -signal.SIGINT
    term = KILL.format("SIGTERM")
    assert status(f"training_begins(); {term}; {kill}; sys.exit(received() != 'SIGTERM')") == 0
    assert status(f"training_begins(); {term}; {kill}; {kill}; sys.exit(0)") == -signal.SIGINT


WAITING_IN_C = """
import ctypes, os, signal, sys, threading
from yolo_lightning.system.signals import *

def interrupt():
    gate.acquire()
    signal.raise_signal(signal.SIGINT)  # to this thread, so that none is lost while another is pending
    print(received(), flush=True)
    {then}

gate = threading.Lock()
gate.acquire()
receiver, sender = os.pipe()
with watching():
    training_begins()
    threading.Thread(target=interrupt, daemon=True).start()
    sys.setswitchinterval(1000)  # the other thread goes on when this one is in C, and not before
    gate.release()
    ctypes.CDLL(None).read(receiver, ctypes.create_string_buffer(1), 1)
    print(received(), flush=True)
"""


def test_a_second_interrupt_ends_at_once_what_cannot_handle_the_first() -> None:
    # It may end the process before that thread takes another step.
    program = WAITING_IN_C.format(then="signal.raise_signal(signal.SIGINT)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
    assert done.stdout.split() == ["None"]


def test_a_first_interrupt_waits_for_what_cannot_handle_it() -> None:
    program = WAITING_IN_C.format(then="os.write(sender, b'.')")  # what is waited for
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout.split()) == (0, ["None", "SIGINT"])


def test_interrupts_of_forked_workers_are_their_own() -> None:
    kill = KILL.format("SIGINT")
    program = f"""
import os, signal, sys
from yolo_lightning.system.signals import *
with watching():
    training_begins()
    for _ in range(2):
        worker = os.fork()
        if not worker:
            {kill}
            assert received() == "SIGINT"
            {kill}
            os._exit(0)
        assert os.waitpid(worker, 0)[1] == signal.SIGINT
    assert received() is None
    {kill}
    sys.exit(received() != "SIGINT")
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_an_interrupt_in_the_middle_of_a_fork_counts_once() -> None:
    """The terminal sends it to all processes; a new one still shares the descriptor of its parent."""
    program = """
import os, signal, sys
def interrupt_both():  # the first hook in the child: ours has not run yet
    os.kill(os.getppid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
os.register_at_fork(after_in_child=interrupt_both)
from yolo_lightning.system.signals import *
with watching():
    training_begins()
    worker = os.fork()
    if not worker:
        os._exit(0)
    os.waitpid(worker, 0)
    sys.exit(received() != "SIGINT")
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_fork_leaves_interrupts_as_they_were() -> None:
    program = """
import os, signal
from yolo_lightning.system.signals import *
with watching():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    worker = os.fork()
    same = signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    if not worker:
        os._exit(not same)
    assert same and os.waitpid(worker, 0)[1] == 0
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_an_event_loop_keeps_its_wakeup_descriptor() -> None:
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    with receiver, sender:
        theirs = sender.fileno()
        assert signal.set_wakeup_fd(theirs) == -1
        with preemption.watching():
            preemption.training_begins()
            os.kill(os.getpid(), signal.SIGUSR1)
        assert receiver.recv(9) == bytes([signal.SIGUSR1])
        assert signal.set_wakeup_fd(-1) == theirs
        with preemption.watching():
            signal.set_wakeup_fd(theirs)  # by one that begins in between
        assert signal.set_wakeup_fd(-1) == theirs
    with preemption.watching():
        pass
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train"}, True),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "interactive"}, False),
    ],
)
def test_batch_jobs_are_told_from_interactive_ones(
    environment: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert preemption.in_slurm_job() is expected


SCONTROL = """#!/bin/sh
echo "$@" >>"$CALLS"
if [ "$1" = show ]; then echo "JobId=7 JobName=train JobState=$STATE Reason=None"; fi
[ "$1$STATE" = "requeueRUNNING STUCK=1" ] || exit 0
echo "slurm_requeue error: Requested operation is presently disabled" >&2
exit 1
"""


@pytest.mark.parametrize(
    ("state", "array", "calls", "said"),
    [
        ("RUNNING", False, ["show job -o 7", "requeue 7"], "Slurm job 7 is queued again"),
        ("RUNNING", True, ["show job -o 5_3", "requeue 5_3"], "Slurm job 5_3 is queued again"),
        ("COMPLETING", False, ["show job -o 7"], "Slurm is ending job 7"),  # as by scancel
        (
            "RUNNING STUCK=1",
            False,
            ["show job -o 7", "requeue 7"],
            "could not be queued again: slurm_requeue error",
        ),
    ],
)
def test_requeue(
    state: str, array: bool, calls: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("STATE", state)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    if array:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert said in preemption.requeue()
    assert (tmp_path / "calls").read_text().splitlines() == calls


def test_without_slurms_commands_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert "could not be queued again" in preemption.requeue()
