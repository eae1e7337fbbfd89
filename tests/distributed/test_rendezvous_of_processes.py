"""Real processes that meet before training; run as a script, this file is one of them."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from yolo_lightning.distributed import agreement
from yolo_lightning.distributed.allreduce import check_all_reduce
from yolo_lightning.distributed.environment import ByHand
from yolo_lightning.distributed.facts import gather_facts
from yolo_lightning.distributed.failure import FailedElsewhere
from yolo_lightning.distributed.joining import join
from yolo_lightning.distributed.rendezvous import Rendezvous
from yolo_lightning.errors import InputError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by signals")


PATIENCE_S = 60


# --- what one rank does -------------------------------------------------------------------------


def meet(timeout_s: float = 60) -> Rendezvous:
    variables = os.environ
    rank = int(variables["RANK"])
    socket.gethostname = lambda: f"host{rank}"
    address, port = variables["MASTER_ADDR"], int(variables["MASTER_PORT"])
    return join(ByHand(address, port, int(variables["WORLD_SIZE"]), rank, rank, 0), timeout_s)


def make_group() -> None:
    dist.init_process_group("gloo")  # by env://, as Lightning does


def goes_well() -> None:
    here = meet()
    doubled = here.share("doubling", lambda: 2 * here.rank)
    decided = here.decide("deciding", lambda: {"from": here.rank})
    assert decided == {"from": 0}
    facts = gather_facts(
        packages=["torch"], commit="abc", data={}, run_directory=Path.cwd(), run_bytes=1, options={"a": "1"}
    )
    facts.values["patch"]["Python"] = f"3.99.{here.rank}"
    warnings = here.compare(facts)
    assert (len(warnings) == 1) == (here.rank == 0)
    make_group()
    seconds = check_all_reduce(torch.device("cpu"), 30, here)
    assert seconds is not None
    assert here.hosts == {0: "host0", 1: "host1"}
    here.close()
    total = torch.tensor([doubled + 1])
    dist.all_reduce(total)
    until = time.monotonic() + PATIENCE_S
    while threading.active_count() > 1 and time.monotonic() < until:
        time.sleep(0.01)  # one whose answer has been taken may be about to end
    print(f"total {total.item()}, threads {threading.active_count()}")
    dist.barrier()
    dist.destroy_process_group()


def other_version() -> None:
    here = meet()
    facts = gather_facts(packages=["torch"], commit="a", data={}, run_directory=Path.cwd(), run_bytes=1)
    if here.rank == 1:
        facts.values["package"]["torch"] = "0.0.1"
    here.compare(facts)


def missing_folder() -> None:
    here = meet()
    data = {"data.root": Path.cwd() / "gone" if here.rank else Path(__file__).parent}
    here.compare(gather_facts(packages=[], commit=None, data=data, run_directory=Path.cwd(), run_bytes=1))


def fails_in_share() -> None:
    here = meet()

    def work() -> None:
        if here.rank == 1:
            raise InputError("/data: the folder does not exist; correct --data.root")
        if here.rank == 2:  # busy for longer than rank zero waits for it
            time.sleep(5)

    here.share("reading the data", work)


def has_a_bug() -> None:
    here = meet()
    found = {"annotations": 0} if here.rank == 1 else {"images": 0}
    here.share("reading the data", lambda: found["images"])


def kills_itself() -> None:
    here = meet()
    victim = int(os.environ["VICTIM"])
    here.share("caching", lambda: os.kill(os.getpid(), signal.SIGKILL) if here.rank == victim else None)


def is_patient() -> None:
    """Rank 1 holds the interpreter, as the reading of a large JSON does, for longer than anything waits."""
    here = meet()
    here.share("reading", lambda: ctypes.PyDLL(None).sleep(4) if here.rank == 1 else None)
    print("done")


def waits_in_vain() -> None:
    meet(timeout_s=3)


def no_show_in_all_reduce() -> None:
    here = meet()
    make_group()
    if here.rank == 1:
        time.sleep(60)
    check_all_reduce(torch.device("cpu"), 5, here)


def blocked_all_reduce() -> None:
    here = meet()
    make_group()
    if here.rank == 1:
        vars(dist)["all_reduce"] = lambda *_, **__: time.sleep(60)  # a call into NCCL that never returns
    check_all_reduce(torch.device("cpu"), 5, here)


def no_show_in_agreement() -> None:
    agreement.OPEN_S = 2
    meet()
    make_group()
    if int(os.environ["RANK"]) == 1:
        time.sleep(60)
    agreement.Agreement(flags=1)


def restarts() -> None:
    here = meet()
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if attempt == 1 and here.rank == 1:
        time.sleep(3)  # time for rank zero to take from the store what the first attempt left
    make_group()
    check_all_reduce(torch.device("cpu"), 30, here)
    here.close()
    print(f"attempt {attempt} rank {here.rank}", flush=True)
    if attempt == 0:
        os._exit(3)
    dist.destroy_process_group()


SCENARIOS: dict[str, Callable[[], None]] = {
    work.__name__: work
    for work in (
        goes_well,
        other_version,
        missing_folder,
        fails_in_share,
        has_a_bug,
        kills_itself,
        is_patient,
        waits_in_vain,
        no_show_in_all_reduce,
        blocked_all_reduce,
        no_show_in_agreement,
        restarts,
    )
}


def begin_together() -> None:
    """Wait for the other processes of this test.

    What takes seconds until here, Python and its imports, takes one of them seconds longer on a busy machine.
    Processes that find the same wrong so far apart may each say it.
    """
    Path(f"{os.getpid()}.began").touch()
    until = time.monotonic() + PATIENCE_S
    while len(list(Path.cwd().glob("*.began"))) < int(os.environ.get("TOGETHER", 1)):
        assert time.monotonic() < until, "another process has not begun"
        time.sleep(0.005)


def run_scenario(name: str) -> int:
    """As ``__main__`` does."""
    begin_together()
    try:
        SCENARIOS[name]()
    except FailedElsewhere:
        return 2
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


# --- and what becomes of it ---------------------------------------------------------------------


@dataclass
class Ranks:
    folder: Path
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, scenario: str, world_size: int, ranks: list[int], **variables: str) -> None:
        with socket.socket() as free:
            free.bind(("", 0))
            port = str(free.getsockname()[1])
        shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(world_size)}
        shared["TOGETHER"] = str(len(ranks))
        for rank in ranks:
            self.add(scenario, RANK=str(rank), **{**shared, **variables})

    def add(self, scenario: str, **variables: str) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "TORCHELASTIC", "MASTER"))}
        process = subprocess.Popen(
            [sys.executable, __file__, scenario],
            env={**clean, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.folder), **variables},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)

    def end(self) -> tuple[list[int], list[str], list[str]]:
        """Status, errors told and output of each."""
        told, output = [], []
        for process in self.running:
            out, err = process.communicate(timeout=200)
            output.append(out)
            told.append("".join(line for line in err.splitlines(True) if line.startswith("error: ")))
        return [process.returncode for process in self.running], told, output


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Ranks]:
    started = Ranks(tmp_path)
    yield started
    for process in started.running:
        process.kill()
        process.communicate()


def test_all_is_well_and_the_process_group_shares_the_store(ranks: Ranks) -> None:
    ranks.start("goes_well", 2, [0, 1])
    statuses, told, output = ranks.end()
    assert statuses == [0, 0]
    assert told == ["", ""]
    lines = [text.splitlines()[-1] for text in output]  # an older gloo prints before
    assert lines == ["total 4, threads 1"] * 2  # 1 + 3; none of ours is left


def test_another_version_is_told_once_with_rank_host_and_both_values(ranks: Ranks) -> None:
    ranks.start("other_version", 2, [0, 1])
    statuses, told, _ = ranks.end()
    assert statuses == [2, 2]
    assert told[0] == (
        f"error: torch is {metadata.version('torch')} on rank 0 on host0 but 0.0.1 on rank 1 on host1; "
        "install the same version on all hosts\n"
    )
    assert told[1] == ""


def test_a_folder_that_is_missing_on_one_rank_is_told_once(ranks: Ranks) -> None:
    ranks.start("missing_folder", 3, [0, 1, 2])
    statuses, told, _ = ranks.end()
    assert statuses == [2, 2, 2]
    assert told[0].startswith(
        f"error: ranks 1, 2 (host1, host2): {ranks.folder}/gone: does not exist on this"
    )
    assert told[1:] == ["", ""]


def test_a_failure_of_one_rank_ends_all_also_the_one_that_is_busy(ranks: Ranks) -> None:
    ranks.start("fails_in_share", 3, [0, 1, 2])
    statuses, told, _ = ranks.end()
    assert statuses == [2, 2, 2]
    assert told[0] == "error: rank 1 on host1: /data: the folder does not exist; correct --data.root\n"
    assert told[1:] == ["", ""]


def test_a_bug_is_told_with_its_place(ranks: Ranks) -> None:
    ranks.start("has_a_bug", 2, [0, 1])
    statuses, told, _ = ranks.end()
    assert statuses == [2, 2]
    assert told[0].startswith("error: rank 1 on host1: KeyError: 'images' (test_preflight_ranks.py:")
    assert told[1] == ""


def test_a_rank_that_is_killed_is_named(ranks: Ranks) -> None:
    ranks.start("kills_itself", 2, [0, 1], VICTIM="1")
    statuses, told, _ = ranks.end()
    assert statuses == [2, -signal.SIGKILL]
    assert told[0] == "error: rank 1 on host1: it ended without a word while caching; see its log\n"


def test_the_death_of_rank_zero_is_told_once_on_a_host(ranks: Ranks) -> None:
    ranks.start("kills_itself", 3, [0, 1, 2], VICTIM="0")
    statuses, told, _ = ranks.end()
    assert statuses == [-signal.SIGKILL, 2, 2]
    (sentence,) = [sentence for sentence in told if sentence]
    assert sentence.startswith("error: rank 0 on host0 ended without a word while caching, as rank ")


def test_who_works_is_waited_for(ranks: Ranks) -> None:
    ranks.start("is_patient", 2, [0, 1])
    statuses, _, output = ranks.end()
    assert (statuses, output) == ([0, 0], ["done\n"] * 2)


def test_who_does_not_come_is_named(ranks: Ranks) -> None:
    ranks.start("waits_in_vain", 4, [0])
    statuses, told, _ = ranks.end()
    assert statuses == [2]
    assert told[0].startswith("error: ranks 1, 2, 3 of 4 did not come to rank 0 on host0 at localhost:")


def test_rank_zero_that_does_not_come_is_told_once_on_a_host(ranks: Ranks) -> None:
    ranks.start("waits_in_vain", 3, [1, 2])
    statuses, told, _ = ranks.end()
    assert statuses == [2, 2]
    (sentence,) = [sentence for sentence in told if sentence]
    assert "rank 0 cannot be reached at localhost:" in sentence


def test_an_address_without_a_host_is_told_once_with_its_origin(ranks: Ranks) -> None:
    ranks.start("goes_well", 2, [0, 1], MASTER_ADDR="no-such-host.invalid")
    statuses, told, _ = ranks.end()
    assert statuses == [2, 2]
    (sentence,) = [sentence for sentence in told if sentence]
    assert "on host" in sentence
    assert "the address of rank 0, no-such-host.invalid (MASTER_ADDR), has no IP address: " in sentence


def test_an_address_of_another_host_and_a_port_that_is_taken(ranks: Ranks) -> None:
    ranks.start("waits_in_vain", 2, [0], MASTER_ADDR="192.0.2.1")  # reserved for documentation
    with socket.create_server(("", 0)) as other:
        ranks.start("waits_in_vain", 2, [0], MASTER_PORT=str(other.getsockname()[1]))
        statuses, told, _ = ranks.end()
    assert statuses == [2, 2]
    assert "192.0.2.1 does not lead to this host" in told[0]
    assert "it is taken by another program; set MASTER_PORT" in told[1]


def test_a_number_that_two_processes_have(ranks: Ranks) -> None:
    ranks.start("goes_well", 3, [0, 1, 1])
    statuses, told, _ = ranks.end()
    assert statuses == [2, 2, 2]
    assert told[0].startswith("error: two processes call themselves rank 1, on host1 and on host1;")
    assert told[1:] == ["", ""]


def test_who_does_not_come_to_the_all_reduce_is_named(ranks: Ranks) -> None:
    ranks.start("no_show_in_all_reduce", 3, [0, 1, 2])
    absent = ranks.running.pop(1)
    statuses, told, _ = ranks.end()
    ranks.running.append(absent)
    assert statuses == [2, 2]
    assert told[0].startswith(
        "error: rank 1 on host1 did not come to the all-reduce within 5 s but the other 2"
    )
    assert told[1] == ""


def test_an_all_reduce_that_does_not_return_ends_all(ranks: Ranks) -> None:
    ranks.start("blocked_all_reduce", 2, [0, 1])
    statuses, told, _ = ranks.end()
    assert statuses == [2, 2]
    assert told[0].startswith(
        "error: an all-reduce of ranks 0, 1 (host0, host1) by gloo did not return within 5 s; look for a "
    )
    assert "GLOO_SOCKET_IFNAME" in told[0]
    assert told[1] == ""


def test_a_group_of_gloo_that_does_not_connect_ends_the_process(ranks: Ranks) -> None:
    ranks.start("no_show_in_agreement", 2, [0, 1])
    absent = ranks.running.pop(1)
    statuses, told, _ = ranks.end()
    ranks.running.append(absent)
    assert statuses == [2]
    assert told[0].startswith("error: rank 0 on host0: gloo, by which the ranks agree on stops, does not ")


def test_what_torchrun_starts_again_does_not_meet_the_dead(tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "TORCHELASTIC", "MASTER"))}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["--max-restarts=1", __file__, "restarts"]
    done = subprocess.run(
        command,
        env={**clean, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    lines = sorted(line for line in done.stdout.splitlines() if line.startswith("attempt"))
    assert lines[-2:] == ["attempt 1 rank 0", "attempt 1 rank 1"]


if __name__ == "__main__":
    sys.exit(run_scenario(sys.argv[1]))
