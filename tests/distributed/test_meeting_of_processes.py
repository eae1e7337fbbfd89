"""Real processes that meet before training; run as a script, this file is one of them."""

import atexit
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.support.processes import free_port, start_call
from yolo_lightning.distributed import failure, joining, meeting, messages
from yolo_lightning.distributed.facts import Facts, machine_facts, why_invisible
from yolo_lightning.distributed.failure import FailedElsewhere
from yolo_lightning.distributed.joining import Launch, join
from yolo_lightning.distributed.meeting import Meeting, check_all_reduce, meet_in_process_group
from yolo_lightning.errors import InputError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are ended by signals")

TIMEOUT_S = 100


# --- what one rank does -------------------------------------------------------------------------


def meet(timeout_s: float = 60) -> Meeting:
    variables = os.environ
    rank = int(variables["RANK"])
    socket.gethostname = lambda: f"host{rank}"
    address, port = variables["MASTER_ADDR"], int(variables["MASTER_PORT"])
    return join(Launch(rank, int(variables["WORLD_SIZE"]), address, port), timeout_s)


def make_group() -> None:
    dist.init_process_group("gloo")  # by env://, as Lightning does


def peer_is_probed() -> bool:
    """True if keep-alive probes are on for a connection to another rank, besides those of the store."""
    port = int(os.environ["MASTER_PORT"])
    probed = []
    for descriptor in messages._sockets():
        with socket.socket(fileno=os.dup(descriptor)) as connection, suppress(OSError):
            if port not in (connection.getpeername()[1], connection.getsockname()[1]):
                probed.append(connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
    return any(probed)


def goes_well() -> None:
    """Rank 1 holds the interpreter, as the reading of a large JSON does, for longer than others wait."""
    here = meet()
    assert peer_is_probed(), "a rank would wait for a host that has vanished"
    nap_s = 2 if here.rank == 1 else 0
    doubled = here.share("doubling", lambda: ctypes.PyDLL(None).sleep(nap_s) or 2 * here.rank)
    decided = here.decide("deciding", lambda: {"from": here.rank})
    assert decided == {"from": 0}
    facts = Facts(machine_facts())
    facts.values["patch"]["Python"] = f"3.99.{here.rank}"
    facts.values["option"] = {"data.predict_source": str([f"/data/photos/{i:06}.jpg" for i in range(20_000)])}
    warnings = here.compare(facts)
    assert (len(warnings) == 1) == (here.rank == 0)
    make_group()
    check_all_reduce(here, torch.device("cpu"), 30)
    assert here.hosts == {0: "host0", 1: "host1"}
    here.close()
    total = torch.tensor([doubled + 1])
    dist.all_reduce(total)
    again = meet_in_process_group()
    assert again.hosts == here.hosts
    check_all_reduce(again, torch.device("cpu"), 30)
    again.close()
    print(f"total {total.item()}")
    dist.barrier()
    dist.destroy_process_group()


def other_version() -> None:
    here = meet()
    facts = Facts(machine_facts())
    if here.rank == 1:
        facts.values["package"]["torch"] = "0.0.1"
    here.compare(facts)


def missing_folder() -> None:
    here = meet()
    problem = why_invisible(Path.cwd() / "gone" if here.rank else Path(__file__).parent, "data.root")
    here.compare(Facts(machine_facts(), [problem] if problem else []))


def fails_in_share() -> None:
    here = meet()

    def work() -> None:
        if here.rank == int(os.environ["VICTIM"]):
            raise InputError("/data: the folder does not exist; correct --data.root")
        if here.rank == here.world_size - 1:  # busy for longer than rank zero waits for it
            ctypes.PyDLL(None).sleep(2)

    here.share("reading the data", work)


def has_a_bug() -> None:
    here = meet()
    found = {"annotations": 0} if here.rank == 1 else {"images": 0}
    here.share("reading the data", lambda: found["images"])


def kills_itself() -> None:
    here = meet()
    here.share("reading", lambda: None)  # until here another rank may still connect
    victim = int(os.environ["VICTIM"])
    here.share("caching", lambda: os.kill(os.getpid(), signal.SIGKILL) if here.rank == victim else None)


def is_told_to_end() -> None:
    """As a process of ``fit`` by SIGTERM, while it waits for rank zero."""
    here = meet()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    if here.rank == 1:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        signal.signal(signal.SIGALRM, lambda *_: sys.exit(75))
    here.share("caching", lambda: time.sleep(2 if here.rank == 0 else 0))


def dies_before_the_welcome() -> None:
    joining.HERE_S = 1
    if os.environ["RANK"] == "1":
        vars(joining)["PrefixStore"] = lambda *_: os._exit(1)
    meet()


def waits_in_vain() -> None:
    meet(timeout_s=2)


def no_show_in_all_reduce() -> None:
    here = meet()
    make_group()
    if here.rank == int(os.environ["VICTIM"]):
        time.sleep(60)
    check_all_reduce(here, torch.device("cpu"), 2)


def blocked_all_reduce() -> None:
    here = meet()
    make_group()
    if here.rank == 1:
        vars(dist)["all_reduce"] = lambda *_, **__: time.sleep(60)  # a call into NCCL that never returns
    check_all_reduce(here, torch.device("cpu"), 2)


def gloo_hangs() -> None:
    messages.OPEN_S = 1
    vars(joining)["ProcessGroupGloo"] = lambda *_: time.sleep(60)
    meet()


def restarts() -> None:
    here = meet()
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if attempt == 1 and here.rank == 1:
        time.sleep(1)  # time for rank zero to take from the store what the first attempt left
    make_group()
    check_all_reduce(here, torch.device("cpu"), 30)
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
        is_told_to_end,
        dies_before_the_welcome,
        waits_in_vain,
        no_show_in_all_reduce,
        blocked_all_reduce,
        gloo_hangs,
        restarts,
    )
}


def begin_together() -> None:
    """Wait for the other processes of this test; those that fail for one reason far apart may each say it."""
    Path(f"{os.getpid()}.began").touch()
    until = time.monotonic() + TIMEOUT_S
    while len(list(Path.cwd().glob("*.began"))) < int(os.environ.get("TOGETHER", 1)):
        assert time.monotonic() < until, "another process has not begun"
        time.sleep(0.005)


def run_scenario(name: str) -> int:
    """As ``__main__`` does."""
    meeting.GRACE_S, failure.SIBLINGS_S, failure._TO_PRINT_S = 0.5, 1.0, 1.0
    begin_together()
    try:
        SCENARIOS[name]()
    except FailedElsewhere:
        return 2
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def forked(name: str, folder: str) -> None:
    """Run one rank in a process that ends as Python does, except that it leaves its modules."""
    os.chdir(folder)
    torch.set_num_threads(1)
    try:
        status = run_scenario(name)
    finally:
        atexit._run_exitfuncs()
    sys.exit(status)


# --- and what becomes of it ---------------------------------------------------------------------


@dataclass
class Ranks:
    folder: Path
    running: list[ForkServerProcess] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)

    def start(self, scenario: str, world_size: int, ranks: list[int], **variables: str) -> None:
        shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world_size)}
        shared |= {"TOGETHER": str(len(ranks)), "TMPDIR": str(self.folder)}
        for rank in ranks:
            self.logs.append(self.folder / f"{len(self.logs)}.log")
            environment = {**shared, "RANK": str(rank), **variables}
            self.running.append(start_call(forked, self.logs[-1], environment, scenario, str(self.folder)))

    def end(self, but: int | None = None) -> tuple[list[int | None], list[str]]:
        """Status and errors told of each, except one that does not end."""
        told = []
        awaited = [process for number, process in enumerate(self.running) if number != but]
        for process in awaited:
            process.join(TIMEOUT_S)
        for number, log in enumerate(self.logs):
            if number == but:
                continue
            lines = log.read_text().splitlines(True)
            told.append("".join(line for line in lines if line.startswith("error: ")))
        return [process.exitcode for process in awaited], told


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Ranks]:
    started = Ranks(tmp_path)
    yield started
    for process in started.running:
        process.kill()
        process.join()


def test_all_is_well_and_the_process_group_shares_the_store(ranks: Ranks) -> None:
    ranks.start("goes_well", 2, [0, 1])
    assert ranks.end() == ([0, 0], ["", ""])
    lines = [log.read_text().splitlines()[-1] for log in ranks.logs]  # gloo may print before
    assert lines == ["total 4"] * 2  # 1 + 3


def test_another_version_is_told_once_with_rank_host_and_both_values(ranks: Ranks) -> None:
    ranks.start("other_version", 2, [0, 1])
    statuses, told = ranks.end()
    assert statuses == [2, 2]
    assert told[0] == (
        f"error: torch is {metadata.version('torch')} on rank 0 on host0 but 0.0.1 on rank 1 on host1; "
        "install the same version on all hosts\n"
    )
    assert told[1] == ""


def test_a_folder_that_is_missing_on_some_ranks_is_told_once(ranks: Ranks) -> None:
    ranks.start("missing_folder", 3, [0, 1, 2])
    statuses, told = ranks.end()
    assert statuses == [2, 2, 2]
    assert told[0].startswith(
        f"error: ranks 1, 2 (host1, host2): {ranks.folder}/gone: does not exist on this"
    )
    assert told[1:] == ["", ""]


def test_a_failure_of_one_rank_ends_all_also_the_one_that_is_busy(ranks: Ranks) -> None:
    ranks.start("fails_in_share", 3, [0, 1, 2], VICTIM="1")
    statuses, told = ranks.end()
    assert statuses == [2, 2, 2]
    assert told[0] == "error: rank 1 on host1: /data: the folder does not exist; correct --data.root\n"
    assert told[1:] == ["", ""]


def test_a_bug_is_told_with_its_place(ranks: Ranks) -> None:
    ranks.start("has_a_bug", 2, [0, 1])
    statuses, told = ranks.end()
    assert statuses == [2, 2]
    assert told[0].startswith("error: rank 1 on host1: KeyError: 'images' (test_meeting_of_processes.py:")
    assert told[1] == ""


def test_a_rank_that_dies_between_hello_and_welcome_is_named(ranks: Ranks) -> None:
    ranks.start("dies_before_the_welcome", 3, [0, 1, 2])
    statuses, told = ranks.end()
    assert statuses == [2, 1, 2]
    assert told[0] == "error: rank 1 on host1 exited while the ranks met; see its log\n"
    assert told[1:] == ["", ""]


def test_a_rank_that_is_killed_is_named(ranks: Ranks) -> None:
    ranks.start("kills_itself", 3, [0, 1, 2], VICTIM="1")
    statuses, told = ranks.end()
    assert statuses == [2, -signal.SIGKILL, 2]
    assert told[0] == "error: rank 1 on host1: exited without an error message while caching; see its log\n"
    assert told[2] == ""


def test_the_death_of_rank_zero_is_told_once_on_a_host(ranks: Ranks) -> None:
    ranks.start("kills_itself", 3, [0, 1, 2], VICTIM="0")
    statuses, told = ranks.end()
    assert statuses == [-signal.SIGKILL, 2, 2]
    (sentence,) = [sentence for sentence in told if sentence]
    assert sentence.startswith(
        "error: rank 0 on host0 exited without an error message while caching, as rank "
    )


def test_a_rank_that_waits_ends_by_a_signal_with_its_own_status(ranks: Ranks) -> None:
    ranks.start("is_told_to_end", 2, [0, 1])
    statuses, told = ranks.end()
    assert statuses == [2, 75]
    assert told[0].startswith("error: rank 1 on host1: exited without an error message while caching")


def test_a_rank_that_does_not_come_is_named(ranks: Ranks) -> None:
    ranks.start("waits_in_vain", 4, [0, 3])
    statuses, told = ranks.end()
    assert statuses == [2, 2]
    assert told[0].startswith("error: ranks 1, 2 of 4 did not come to rank 0 on host0 at localhost:")
    assert told[1] == ""


def test_rank_zero_that_does_not_come_is_told_once_on_a_host(ranks: Ranks) -> None:
    ranks.start("waits_in_vain", 3, [1, 2])
    statuses, told = ranks.end()
    assert statuses == [2, 2]
    (sentence,) = [sentence for sentence in told if sentence]
    assert "rank 0 cannot be reached at localhost:" in sentence and "Connection refused" in sentence


def test_an_address_without_a_host_is_told_once_with_its_origin(ranks: Ranks) -> None:
    ranks.start("waits_in_vain", 2, [0, 1], MASTER_ADDR="no-such-host.invalid")
    statuses, told = ranks.end()
    assert statuses == [2, 2]
    (sentence,) = [sentence for sentence in told if sentence]
    assert "on host" in sentence
    assert "the address of rank 0, no-such-host.invalid (MASTER_ADDR), has no IP address: " in sentence


def test_an_address_of_another_host_and_a_port_that_is_taken(ranks: Ranks) -> None:
    ranks.start("waits_in_vain", 2, [0], MASTER_ADDR="192.0.2.1")  # reserved for documentation
    with socket.create_server(("", 0)) as other:
        ranks.start("waits_in_vain", 2, [0], MASTER_PORT=str(other.getsockname()[1]))
        statuses, told = ranks.end()
    assert statuses == [2, 2]
    assert "192.0.2.1 does not lead to this host" in told[0]
    assert "it is taken by another program; set MASTER_PORT" in told[1]


def test_a_number_that_two_processes_have(ranks: Ranks) -> None:
    ranks.start("goes_well", 3, [0, 1, 1])
    statuses, told = ranks.end()
    assert statuses == [2, 2, 2]
    assert told[0].startswith("error: two processes call themselves rank 1, on host1 and on host1;")
    assert told[1:] == ["", ""]


def test_another_number_of_processes(ranks: Ranks) -> None:
    port = str(free_port())
    ranks.start("waits_in_vain", 3, [0], MASTER_PORT=port)
    ranks.start("waits_in_vain", 4, [1], MASTER_PORT=port)
    statuses, told = ranks.end()
    assert statuses == [2, 2]
    assert told[0] == (
        "error: rank 1 on host1 is one of 4 processes but rank 0 on host0 is one of 3; "
        "start all with the same WORLD_SIZE\n"
    )
    assert told[1] == ""


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_does_not_come_to_the_all_reduce_is_named(ranks: Ranks, victim: int) -> None:
    ranks.start("no_show_in_all_reduce", 3, [0, 1, 2], VICTIM=str(victim))
    statuses, told = ranks.end(but=victim)
    assert statuses == [2, 2]
    (sentence,) = [sentence for sentence in told if sentence]
    assert f"rank {victim} on host{victim}" in sentence


def test_an_all_reduce_that_does_not_return_ends_all(ranks: Ranks) -> None:
    ranks.start("blocked_all_reduce", 2, [0, 1])
    statuses, told = ranks.end()
    assert statuses == [2, 2]
    assert told[0].startswith("error: an all-reduce by gloo did not return within 2 s; look for a firewall")
    assert "GLOO_SOCKET_IFNAME" in told[0] and told[0].endswith("(on all 2 ranks)\n")
    assert told[1] == ""


def test_ranks_that_gloo_does_not_connect_end_with_what_to_do(ranks: Ranks) -> None:
    ranks.start("gloo_hangs", 2, [0, 1])
    statuses, told = ranks.end()
    assert statuses == [2, 2]
    (sentence,) = [sentence for sentence in told if sentence]
    assert ": gloo, by which the ranks talk to each other, does not connect them within 1 s" in sentence
    assert "set GLOO_SOCKET_IFNAME to " in sentence


def test_a_process_of_its_own_ends_with_its_own_status(tmp_path: Path) -> None:
    """Python aborts a process in which a thread returns from gloo while the interpreter ends."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "TORCHELASTIC", "MASTER"))}
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    shared |= {"TOGETHER": "2", "VICTIM": "0"}
    command = [sys.executable, __file__, "fails_in_share"]
    running = [
        subprocess.Popen(command, env={**clean, **shared, "RANK": str(rank)}, cwd=tmp_path)
        for rank in range(2)
    ]
    assert [process.wait(TIMEOUT_S) for process in running] == [2, 2]


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
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    said = re.findall(r"attempt \d rank \d", done.stdout)  # two processes may write into one line
    assert sorted(said)[-2:] == ["attempt 1 rank 0", "attempt 1 rank 1"]


if __name__ == "__main__":
    sys.exit(run_scenario(sys.argv[1]))
