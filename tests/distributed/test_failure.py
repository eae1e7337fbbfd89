import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from yolo_lightning.distributed import failure
from yolo_lightning.distributed.failure import (
    FailedElsewhere,
    describe_failures,
    is_failing,
    name_ranks,
    say_on_host,
)

HOSTS = {0: "a", 1: "b", 2: "b", 3: "c"}
PATIENCE_S = 60
"""For what takes milliseconds."""


def test_ranks_in_words() -> None:
    assert name_ranks([1], HOSTS) == "rank 1 on b"
    assert name_ranks([1, 2], HOSTS) == "ranks 1, 2 on b"
    assert name_ranks([1, 3], HOSTS) == "ranks 1, 3 (b, c)"
    assert name_ranks([7], HOSTS) == "rank 7"
    assert name_ranks(range(20), {}).endswith("6, 7 and 12 more")


def test_the_same_failure_of_several_ranks_is_told_once() -> None:
    told = describe_failures({1: "no\nroom", 2: "no room", 3: "no data"}, HOSTS, 4)
    assert told == "ranks 1, 2 on b: no room | rank 3 on c: no data"
    assert describe_failures(dict.fromkeys(range(4), "no room"), HOSTS, 4) == "no room (on all 4 ranks)"


def test_one_process_of_a_host_says_what_all_find(monkeypatch: pytest.MonkeyPatch) -> None:
    all_know = threading.Barrier(3, timeout=PATIENCE_S)  # in the place of some seconds, in which they would
    monkeypatch.setattr(failure, "time", SimpleNamespace(sleep=lambda _: all_know.wait()))
    subject = f"test {time.monotonic_ns()}"  # a socket has a name once: threads stand for processes
    with ThreadPoolExecutor(3) as pool:
        errors = list(pool.map(lambda _: say_on_host("the sentence", subject), range(3)))
    assert sorted(isinstance(error, FailedElsewhere) for error in errors) == [False, True, True]
    assert {str(error) for error in errors} == {"the sentence"}


def test_who_is_quiet_ends_after_the_one_that_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun and srun end all processes when they see one end, the one that is about to speak as well."""
    slept: list[float] = []
    monkeypatch.setattr(failure, "time", SimpleNamespace(sleep=slept.append))  # not for other threads
    subject = f"test {time.monotonic_ns()}"
    monkeypatch.setattr(failure, "_is_first_on_host", lambda _: False)
    assert isinstance(say_on_host("the sentence", subject), FailedElsewhere)
    [quiet] = slept
    assert quiet > failure.SIBLINGS_S


@pytest.mark.parametrize("is_first", [True, False])
def test_a_process_that_fails_for_all_knows_it_before_it_ends(
    is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failure, "_TO_PRINT_S", -failure.SIBLINGS_S)
    monkeypatch.setattr(failure, "_failing", threading.Event())
    known: list[bool] = []
    monkeypatch.setattr(failure, "_is_first_on_host", lambda _: known.append(is_failing()) or is_first)
    say_on_host("the sentence", "test")
    assert known == [True]
    monkeypatch.setattr(failure, "_failing", threading.Event())
    FailedElsewhere("the sentence")
    assert is_failing()


ENDS_LATE = """
import threading, time, torch
from yolo_lightning.distributed.failure import begin

def work(_):  # as on a busy machine, where a thread ends some time after its result is there
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        torch.zeros(1).add_(1)

may_end = threading.Event()
future = begin(may_end.wait)
future.add_done_callback(work)
may_end.set()
"""


def test_a_process_waits_for_a_thread_whose_call_has_ended() -> None:
    """Python would abort it, with the status of SIGABRT."""
    assert subprocess.run([sys.executable, "-c", ENDS_LATE], timeout=PATIENCE_S).returncode == 0
