import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from yolo_lightning.distributed import failure, reach
from yolo_lightning.distributed.channel import Channel, Door, Ended, knock, wait_for_any
from yolo_lightning.distributed.environment import ByHand, address_origin, started_by_hand
from yolo_lightning.distributed.failure import (
    FailedElsewhere,
    describe_failures,
    is_failing,
    name_ranks,
    say_on_host,
)
from yolo_lightning.distributed.joining import join
from yolo_lightning.distributed.reach import bounded, why_unreachable, why_unresolved
from yolo_lightning.distributed.rendezvous import alone
from yolo_lightning.errors import InputError

HOSTS = {0: "a", 1: "b", 2: "b", 3: "c"}
PATIENCE_S = 60
"""For what takes milliseconds."""
STARTED = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "NODE_RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "1234",
}


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    left, right = (Channel(end) for end in _connected())
    yield left, right
    left.close()
    right.close()


def _connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        left = socket.create_connection(server.getsockname())
        return left, server.accept()[0]


def test_messages_arrive_whole_and_in_order(pair: tuple[Channel, Channel]) -> None:
    left, right = pair
    messages = [{"a": "ä\n" * 50_000}, [1, 2], "x"]
    with ThreadPoolExecutor(1) as pool:
        pool.map(left.send, messages)
        assert [right.receive(PATIENCE_S) for _ in messages] == messages


def test_silence_is_no_end_and_the_end_is_no_silence(pair: tuple[Channel, Channel]) -> None:
    left, right = pair
    assert not right.has_ended()
    with pytest.raises(TimeoutError):
        right.receive(0.01)
    left.send("last words")
    left.close()
    assert right.receive(PATIENCE_S) == "last words"
    assert right.has_ended()
    with pytest.raises(Ended):
        right.receive(PATIENCE_S)
    right.send("in vain")  # no exception


def test_garbage_is_an_end() -> None:
    left, right = _connected()
    channel = Channel(right)
    left.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(Ended, match="not a message"):
        channel.receive(PATIENCE_S)
    left.close()
    channel.close()


def test_only_those_who_have_something_to_say_are_read(pair: tuple[Channel, Channel]) -> None:
    left, right = pair
    assert wait_for_any([left, right], 0) == []
    left.send(1)
    assert wait_for_any([left, right], PATIENCE_S) == [right]


def test_the_door_opens_to_who_knows_the_token() -> None:
    door = Door("secret")
    refused: list[BaseException] = []

    def call() -> None:
        try:
            knock("127.0.0.1", door.port, {"token": "guess"}, PATIENCE_S)
        except OSError as error:
            refused.append(error)
        knock("127.0.0.1", door.port, {"token": "secret", "rank": 1}, PATIENCE_S).close()

    caller = threading.Thread(target=call)
    caller.start()
    assert door.admit(PATIENCE_S) is None
    admitted = door.admit(PATIENCE_S)
    caller.join()
    assert admitted is not None and admitted[1] == {"token": "secret", "rank": 1}
    assert isinstance(refused[0], Ended)
    assert door.admit(0.01) is None
    admitted[0].close()
    door.close()


def test_a_call_that_hangs_is_left_behind() -> None:
    release = threading.Event()
    with pytest.raises(TimeoutError):
        bounded(release.wait, 0.05)
    release.set()
    assert bounded(lambda: 3, PATIENCE_S) == 3
    with pytest.raises(KeyError):
        bounded(lambda: {}["x"], PATIENCE_S)  # type: ignore[index]


def test_names_and_ports() -> None:
    assert why_unresolved("localhost", PATIENCE_S) is None
    assert why_unresolved("no-such-host.invalid", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert why_unreachable("127.0.0.1", port, PATIENCE_S) is None
    assert why_unreachable("127.0.0.1", port, 0) == "Connection refused"


def test_a_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(reach.socket, "getaddrinfo", lambda *_, **__: release.wait(PATIENCE_S))
    assert why_unresolved("somewhere", 0.1) == "the resolver did not answer within 0 s"
    release.set()


def test_a_name_that_appears_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([socket.gaierror(-2, "Name or service not known")])

    def ask(*_: object, **__: object) -> list[object]:
        for error in answers:
            raise error
        return []

    monkeypatch.setattr(reach.socket, "getaddrinfo", ask)
    assert why_unresolved("somewhere", PATIENCE_S) is None


def test_one_process_meets_itself() -> None:
    here = join(ByHand("nowhere.invalid", 1, 1, 0, 0, 0))
    assert here.share("reading", lambda: 5) == 5
    assert here.decide("reading", lambda: 6) == 6
    with pytest.raises(KeyError):
        alone().share("reading", lambda: {}["x"])  # type: ignore[index]
    here.close()


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
    subject = f"test {time.monotonic_ns()}"  # a lock is of an open file: threads stand for processes
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
    monkeypatch.setattr(failure._State, "is_failing", False)
    known: list[bool] = []
    monkeypatch.setattr(failure, "_is_first_on_host", lambda _: known.append(is_failing()) or is_first)
    say_on_host("the sentence", "test")
    assert known == [True]
    monkeypatch.setattr(failure._State, "is_failing", False)
    FailedElsewhere("the sentence")
    assert is_failing()


def test_processes_that_were_started_by_hand() -> None:
    found = started_by_hand(STARTED, devices=2)
    assert found is not None
    assert (found.main_address, found.main_port) == ("a", 1234)
    numbers = (found.world_size(), found.global_rank(), found.local_rank(), found.node_rank())
    assert numbers == (4, 3, 1, 1)


@pytest.mark.parametrize("absent", ["RANK", "LOCAL_RANK", "WORLD_SIZE"])
def test_processes_that_nobody_numbered(absent: str) -> None:
    assert started_by_hand({k: v for k, v in STARTED.items() if k != absent}, devices=2) is None
    assert started_by_hand({**STARTED, "WORLD_SIZE": "1"}, devices=2) is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"MASTER_PORT": ""}, "MASTER_PORT is not set"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        ({"RANK": "2"}, r"RANK is 2, but node 1 x 2 devices \+ LOCAL_RANK 1 is 3"),
        ({"WORLD_SIZE": "2"}, "RANK is 3 and WORLD_SIZE 2; ranks are counted from 0 to 1"),
    ],
)
def test_numbers_that_contradict_each_other(change: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        started_by_hand({**STARTED, **change}, devices=2)


@pytest.mark.parametrize(
    ("variables", "origin", "remedy"),
    [
        ({"MASTER_ADDR": "a", "TORCHELASTIC_RUN_ID": "1"}, "MASTER_ADDR, from torchrun", "--local-addr"),
        ({"MASTER_ADDR": "a", "SLURM_NODELIST": "a,b"}, "MASTER_ADDR", "set MASTER_ADDR"),
        ({"SLURM_JOB_NODELIST": "a,b"}, "the first name of SLURM_JOB_NODELIST", "IP address of that node"),
    ],
)
def test_where_the_address_comes_from(variables: dict[str, str], origin: str, remedy: str) -> None:
    found, advice = address_origin(variables)
    assert found == origin
    assert remedy in advice
