"""Real processes that reduce tensors together until one of them dies, fails or stops."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.support.processes import free_port, start_call
from yolo_lightning.distributed import failure, watch
from yolo_lightning.distributed.failure import FailedElsewhere
from yolo_lightning.distributed.meeting import FirstAllReduce, alone
from yolo_lightning.errors import InputError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by signals")

TIMEOUT_S = 100
STEPS = 10


def act(scenario: str, rank: int, step: int) -> None:
    """Do on the rank that the scenario ends in ``_<rank>`` what it says, in the middle of the run."""
    what, _, victim = scenario.rpartition("_")
    if step != STEPS // 2 or rank != int(victim):
        return
    if what == "killed_beside_a_child" and os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    if what.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "wrong":
        raise InputError(f"/data: is gone {os.urandom(20_000).hex()}")  # more than a message holds
    if what == "bug":
        raise KeyError("images")
    if what == "stops":
        Path("stopping").touch()
    if what == "hangs":
        time.sleep(60)
    if what == "leaves":
        sys.exit(75)


def one_rank(scenario: str, folder: str) -> None:
    """What each process does; as ``__main__`` it prints wrong input and ends with 2."""
    os.chdir(folder)
    torch.set_num_threads(1)
    watch.BEAT_S, watch.SILENT_S, watch.NEWS_S, watch.GRACE_S, watch.FORCE_S = 0.5, 2.0, 4.0, 0.5, 5.0
    failure.SIBLINGS_S = failure._TO_PRINT_S = 1.0
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo", timeout=timedelta(seconds=2 if "hangs" in scenario else 15))
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")))
    first = FirstAllReduce(alone())
    first.setup(trainer, None, "validate")  # type: ignore[arg-type]
    status = 0
    try:
        with first.watching():
            for step in range(STEPS):
                act(scenario, rank, step)
                dist.all_reduce(torch.ones(1))
                time.sleep(2 if Path("stopping").exists() else 0.1)
            time.sleep(rank)  # they do not end at the same time
    except FailedElsewhere:
        status = 2
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        status = 2
    os._exit(status)


class Ranks:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[ForkServerProcess] = []

    def start(self, scenario: str, world_size: int = 2) -> None:
        meeting_place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
        for rank in range(world_size):
            environment = {**meeting_place, "WORLD_SIZE": str(world_size), "RANK": str(rank)}
            log = self.folder / f"{rank}.log"
            self.running.append(start_call(one_rank, log, environment, scenario, str(self.folder)))

    def log(self, rank: int) -> str:
        path = self.folder / f"{rank}.log"
        return path.read_text() if path.exists() else ""

    def wait_for(self, text: str, rank: int) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.log(rank):
            assert time.monotonic() < deadline, self.log(rank)
            time.sleep(0.05)

    def end(self, but: int | None = None) -> tuple[list[int | None], list[str]]:
        """Status of each, except one that does not end, and the errors that each has printed."""
        awaited = [process for rank, process in enumerate(self.running) if rank != but]
        for process in awaited:
            process.join(TIMEOUT_S)
        logs = [self.log(rank) for rank in range(len(self.running))]
        told = ["".join(line for line in log.splitlines() if line.startswith("error: ")) for log in logs]
        return [process.exitcode for process in awaited], told


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Ranks]:
    started = Ranks(tmp_path)
    yield started
    for process in started.running:
        process.kill()
        process.join()


def test_ranks_that_end_one_after_the_other_say_nothing(ranks: Ranks) -> None:
    ranks.start("nothing_0", 3)
    assert ranks.end() == ([0, 0, 0], ["", "", ""])


def test_a_killed_rank_is_named_once(ranks: Ranks) -> None:
    ranks.start("killed_1", 3)
    statuses, told = ranks.end()
    assert statuses == [2, -signal.SIGKILL, 2]
    assert f"(pid {ranks.running[1].pid}): was killed or died in validate; see its log" in told[0]
    assert told[0].startswith("error: rank 1 on ") and told[2] == ""
    assert "Traceback" not in ranks.log(0) + ranks.log(2)


def test_a_killed_rank_whose_child_holds_its_connections_is_named(ranks: Ranks) -> None:
    ranks.start("killed_beside_a_child_1")
    statuses, told = ranks.end()
    assert statuses == [2, -signal.SIGKILL]
    assert told[0].startswith("error: rank 1 on ") and ": was killed or died in validate" in told[0]


def test_the_death_of_rank_zero_is_told_once_on_a_host(ranks: Ranks) -> None:
    ranks.start("killed_0", 3)
    statuses, told = ranks.end()
    assert statuses == [-signal.SIGKILL, 2, 2]
    (sentence,) = [sentence for sentence in told if sentence]
    assert sentence.startswith("error: rank 0 on ") and ": was killed or died in validate" in sentence


@pytest.mark.parametrize("victim", [0, 1])
def test_wrong_input_of_one_rank_is_told_by_rank_zero(ranks: Ranks, victim: int) -> None:
    ranks.start(f"wrong_{victim}")
    statuses, told = ranks.end()
    assert statuses == [2, 2] and told[1] == ""
    where = f"rank 1 on {os.uname().nodename} (pid {ranks.running[1].pid}): " if victim else ""
    assert told[0].startswith(f"error: {where}/data: is gone")


def test_a_bug_on_one_rank_is_told_with_its_place(ranks: Ranks) -> None:
    ranks.start("bug_1")
    statuses, told = ranks.end()
    assert statuses[0] == 2
    assert "): KeyError: 'images' (test_watch.py:" in told[0]
    assert "Traceback" in ranks.log(1) and "Traceback" not in ranks.log(0)


def test_a_rank_that_leaves_alone_is_named(ranks: Ranks) -> None:
    ranks.start("leaves_1")
    statuses, told = ranks.end()
    assert statuses[0] == 2 and "has ended, in validate; see its log" in told[0]


def test_a_rank_that_lives_and_does_not_come_is_told(ranks: Ranks) -> None:
    ranks.start("hangs_1")
    statuses, told = ranks.end()
    assert statuses == [2, 2]  # the one that hangs is ended by force
    assert "did not come to an exchange in validate within --ddp.timeout_minutes" in told[0] and not told[1]
    assert "Traceback" not in ranks.log(0)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_rank_is_waited_for_until_the_limit(ranks: Ranks, victim: int) -> None:
    ranks.start(f"stops_{victim}")
    other, pid = 1 - victim, ranks.running[victim].pid
    assert pid
    while not (ranks.folder / "stopping").exists():
        time.sleep(0.05)
    os.kill(pid, signal.SIGSTOP)
    ranks.wait_for(f"(pid {pid}) has not answered since", other)
    os.kill(pid, signal.SIGCONT)
    ranks.wait_for(f"(pid {pid}) answers again after", other)
    assert "error" not in ranks.log(0) + ranks.log(1)
    os.kill(pid, signal.SIGSTOP)
    statuses, told = ranks.end(but=victim)
    assert statuses == [2]
    assert told[other].startswith(f"error: rank {victim} on ")
    assert "has not answered for" in told[other] and "(see --ddp.timeout_minutes)" in told[other]
