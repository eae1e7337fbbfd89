from __future__ import annotations

import os
import threading
import time
import warnings

import pytest

from yolo_lightning.system.background import BackgroundQueue, Pace


def test_tasks_run_in_order_on_another_thread() -> None:
    queue, seen = BackgroundQueue(most=64), []
    for number in range(50):
        assert queue.submit(lambda n: seen.append((n, threading.current_thread().name)), number)
    queue.drain()
    assert [number for number, _ in seen] == list(range(50))
    assert {name for _, name in seen} == {"background"}


def test_a_full_queue_drops_and_holds_nobody() -> None:
    queue, go, seen = BackgroundQueue(most=2), threading.Event(), []
    started = threading.Event()
    queue.submit(lambda: (started.set(), go.wait()))
    started.wait()
    assert [queue.submit(seen.append, n) for n in range(4)] == [True, True, False, False]
    assert queue.dropped == 2
    go.set()
    queue.drain()
    assert seen == [0, 1]


def test_an_error_is_one_warning_and_the_rest_goes_on() -> None:
    queue, seen = BackgroundQueue(), []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)  # of others, whenever they are collected
        queue.submit(lambda: 1 / 0)
        queue.submit(lambda: 1 / 0)
        queue.submit(seen.append, "after")
        queue.drain()
    assert [str(each.message) for each in told] == [
        "a picture or file could not be made: ZeroDivisionError: division by zero; training continues"
    ]
    assert (queue.failed, seen) == (2, ["after"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_begins_anew() -> None:
    queue, go = BackgroundQueue(), threading.Event()
    queue.submit(go.wait)
    child = os.fork()
    if child == 0:
        queue.drain()  # would wait for what the parent's thread does
        seen: list[int] = []
        queue.submit(seen.append, 1)
        queue.drain()
        os._exit(0 if seen == [1] else 1)
    status = os.waitpid(child, 0)[1]
    go.set()
    queue.drain()
    assert os.waitstatus_to_exitcode(status) == 0


def test_work_is_due_again_when_it_has_taken_no_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    now, busy = [100.0], [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "thread_time", lambda: busy[0])
    pace = Pace(0.01)
    assert pace.is_due()

    def work(seconds: float) -> None:
        busy[0] += seconds
        now[0] += seconds

    pace.run(work, 0.5)
    due_at = []
    for now[0] in (110.0, 149.0, 150.0, 151.0):
        due_at.append(pace.is_due())
    assert due_at == [False, False, True, True]


def test_where_warnings_are_errors_the_rest_goes_on_too() -> None:
    queue, seen = BackgroundQueue(), []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        queue.submit(lambda: 1 / 0)
        queue.submit(seen.append, "after")
        queue.drain()
    assert seen == ["after"]
