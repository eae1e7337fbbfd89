"""How long images are waited for, and what is said meanwhile."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from yolo_lightning.data.images import waiting
from yolo_lightning.data.images.faults import Faults
from yolo_lightning.data.images.waiting import WorkerLost, wait
from yolo_lightning.errors import InputError


class Clock:
    """A clock that each attempt moves on by five seconds."""

    def __init__(self, answer_after_s: float = float("inf")) -> None:
        self.now = 1000.0
        self.answer_at = self.now + answer_after_s

    def attempt(self) -> str:
        self.now += 5
        if self.now < self.answer_at:
            raise multiprocessing.TimeoutError
        return "images"


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Clock, Faults, list[str]]]:
    def begin(answer_after_s: float = float("inf")) -> tuple[Clock, Faults, list[str]]:
        clock, said = Clock(answer_after_s), []
        monkeypatch.setattr(time, "monotonic", lambda: clock.now)
        monkeypatch.setattr(time, "monotonic_ns", lambda: int(clock.now * 1e9))
        return clock, Faults(3, lambda i: Path(f"/data/{i}.jpg"), announce=said.append), said

    return begin


def _idle(is_ready: Event) -> None:
    faulthandler.disable()  # pytest's writes a page when a signal ends the process
    is_ready.set()
    time.sleep(600)


@pytest.fixture
def worker() -> Iterator[BaseProcess]:
    context = multiprocessing.get_context("fork")
    is_ready = context.Event()
    process = context.Process(target=_idle, args=(is_ready,), daemon=True)
    process.start()
    assert is_ready.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_hang_is_said_within_a_minute_and_again_every_minute(start: Callable[..., tuple]) -> None:
    clock, faults, said = start(200)
    with faults.reading(1):
        assert wait(clock.attempt, faults) == "images"
    assert [line.split(",")[0] for line in said] == [
        f"waiting for images: /data/1.jpg has been read for {time}"
        for time in ("30.0 s", "1 min 30 s", "2 min 30 s")
    ]


def test_long_batches_are_no_hang(start: Callable[..., tuple]) -> None:
    clock, faults, said = start(500)
    assert wait(clock.attempt, faults) == "images" and not said


def test_no_wait_is_endless(start: Callable[..., tuple], worker: BaseProcess) -> None:
    clock, faults, said = start()
    with pytest.raises(
        InputError, match="no images for 10 min 00 s: the loader does nothing; mend it and resume"
    ):
        wait(clock.attempt, faults, [worker])
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL and not said


def test_a_stopped_worker_is_named(start: Callable[..., tuple], worker: BaseProcess) -> None:
    clock, faults, said = start(100)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    os.waitpid(worker.pid, os.WUNTRACED)
    assert wait(clock.attempt, faults, [worker]) == "images"
    pid = worker.pid
    line = f"waiting for images: loader worker {pid} is stopped, and goes on after kill -CONT {pid}"
    assert said == [line, line]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (
            signal.SIGKILL,
            r"by SIGKILL, as the kernel does .*GB are free now\); set a smaller --data\.num_workers",
        ),
        (
            signal.SIGBUS,
            r"by SIGBUS, most likely as /dev/shm is full; mount it larger .* --data\.num_workers, such as 0",
        ),
        (signal.SIGSEGV, r"by SIGSEGV while it read /data/2\.jpg; replace or remove that image"),
    ],
)
def test_what_ended_a_worker_is_named(worker: BaseProcess, number: signal.Signals, words: str) -> None:
    faults = Faults(3, lambda i: Path(f"/data/{i}.jpg"))
    assert worker.pid is not None

    def attempt() -> None:
        os.kill(worker.pid or 0, number)
        worker.join(60)
        raise RuntimeError("DataLoader worker (pid(s) 1) exited unexpectedly")

    with faults.reading(2), pytest.raises(WorkerLost, match=rf"loader worker {worker.pid} has ended {words}"):
        wait(attempt, faults, [worker])


def test_other_errors_pass(worker: BaseProcess) -> None:
    def attempt() -> None:
        raise RuntimeError("of the data set itself")

    with pytest.raises(RuntimeError, match="of the data set itself"):
        wait(attempt, Faults(1, lambda i: Path()), [worker])
    assert waiting.SAY_AFTER_S < 60


def test_a_full_shared_memory_is_named(worker: BaseProcess) -> None:
    def attempt() -> None:
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
        )

    with pytest.raises(InputError, match=r"^/dev/shm is full; mount it larger \(docker run --shm-size 8g\)"):
        wait(attempt, Faults(1, lambda i: Path()), [worker])
