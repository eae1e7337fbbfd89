import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import TCPStore

from yolo_lightning.distributed import joining
from yolo_lightning.distributed.failure import bounded
from yolo_lightning.distributed.joining import Launch, _why_unresolved, join
from yolo_lightning.distributed.meeting import alone

PATIENCE_S = 60
"""For what takes milliseconds."""


def test_a_call_that_hangs_is_left_behind() -> None:
    release = threading.Event()
    with pytest.raises(TimeoutError):
        bounded(release.wait, 0.05)
    release.set()
    assert bounded(lambda: 3, PATIENCE_S) == 3
    with pytest.raises(KeyError):
        bounded(lambda: {}["x"], PATIENCE_S)  # type: ignore[index]


def test_a_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(joining.socket, "getaddrinfo", lambda *_, **__: release.wait(PATIENCE_S))
    assert _why_unresolved("somewhere", 0.1) == "the resolver did not answer within 0 s"
    release.set()


def test_a_name_that_appears_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([socket.gaierror(-2, "Name or service not known")])

    def ask(*_: object, **__: object) -> list[object]:
        for error in answers:
            raise error
        return []

    monkeypatch.setattr(joining.socket, "getaddrinfo", ask)
    assert _why_unresolved("somewhere", PATIENCE_S) is None


def test_one_process_meets_itself() -> None:
    here = join(Launch(0, 1, "nowhere.invalid", 1), PATIENCE_S)
    assert here.share("reading", lambda: 5) == 5
    assert here.decide("reading", lambda: 6) == 6
    with pytest.raises(KeyError):
        alone().share("reading", lambda: {}["x"])  # type: ignore[index]
    here.close()


def test_a_run_that_torchrun_starts_again_meets_on_the_same_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """What rank zero removes of the first attempt must not be what another rank is about to read."""
    check = TCPStore.check

    def slow_check(store: TCPStore, keys: list[str]) -> bool:
        found = check(store, keys)
        time.sleep(0.5 if found and "welcome" in keys[0] else 0)  # a busy machine
        return found

    monkeypatch.setattr(TCPStore, "check", slow_check)
    store = TCPStore("localhost", 0, 2, True, wait_for_workers=False)
    ranks = [Launch(rank, 2, "localhost", store.port) for rank in range(2)]
    hello, said, prefixes = "yolo_lightning/hello/1", b"", set()
    for _ in range(2):
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(joining._reach_rank_zero, ranks[1], PATIENCE_S)
            while not check(store, [hello]) or store.get(hello) == said:
                time.sleep(0.01)
            said = store.get(hello)
            welcome = joining._receive_all(ranks[0], store, PATIENCE_S)
            assert other.result()[1] == {**welcome, "failure": ""}
            prefixes.add(welcome["prefix"])
    assert len(prefixes) == 2
