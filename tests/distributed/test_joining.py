import socket
import threading

import pytest

from yolo_lightning.distributed import joining
from yolo_lightning.distributed.joining import _why_unresolved, join
from yolo_lightning.distributed.launch import Launch
from yolo_lightning.distributed.meeting import alone
from yolo_lightning.distributed.time_limit import bounded

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
    here = join(Launch(0, 1, 0, "nowhere.invalid", 1))
    assert here.share("reading", lambda: 5) == 5
    assert here.decide("reading", lambda: 6) == 6
    with pytest.raises(KeyError):
        alone().share("reading", lambda: {}["x"])  # type: ignore[index]
    here.close()
