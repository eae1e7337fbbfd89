"""Joining: each process learns its rank from the launcher, and finds the others through a store."""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore

from ..errors import InputError
from .ddp import processes_here
from .failure import FailedElsewhere, bounded, name_ranks, say_on_host
from .meeting import Meeting, alone
from .messages import PATIENCE, connect

RESOLVE_S = 8.0
"""Longest wait for the address of a name, in s."""
HERE_S = 10.0
"""Time for ranks that have said hello to read the welcome, in s."""
ANSWER_S = 20.0
"""Longest wait for an answer of the store, in s."""
_POLL_S = 0.1
_HELLO = "yolo_lightning/hello"


@dataclass(frozen=True)
class Launch:
    """This process among those of the run."""

    rank: int
    world_size: int
    address: str
    """Name or IP address of the host of rank zero."""
    port: int
    """TCP port there."""
    origin: str = "MASTER_ADDR"
    """Origin of the address."""
    remedy: str = "set MASTER_ADDR to a name or an IP address of rank zero's host that all know"
    """Remedy for a wrong address."""

    @property
    def me(self) -> str:
        """This rank and its host in words."""
        return name_ranks([self.rank], {self.rank: socket.gethostname()})


def find_launch(config: Any) -> Launch | None:
    """Find out who started this process beside others, in the order in which Lightning asks.

    Returns:
        None for a single process, and where Lightning starts the others itself.

    Raises:
        InputError: The launcher started another number of processes than the options say.
    """
    origin, remedy = address_origin(os.environ)  # before main_address, which sets MASTER_ADDR

    def launched_by(environment: ClusterEnvironment) -> Launch:
        rank, world_size = environment.global_rank(), environment.world_size()
        return Launch(rank, world_size, environment.main_address, environment.main_port, origin, remedy)

    trainer = config.trainer
    if TorchElasticEnvironment.detect():
        return launched_by(TorchElasticEnvironment())
    devices = processes_here(trainer)
    if SLURMEnvironment.detect():
        tasks, processes = int(os.environ["SLURM_NTASKS"]), devices * int(trainer.num_nodes)
        if tasks == processes:
            if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:  # Lightning cannot do without
                raise InputError(
                    f"Slurm was asked for {tasks} tasks, but not how many of them a node has; give "
                    "--ntasks-per-node, not --ntasks"
                )
            return launched_by(SLURMEnvironment())
        if tasks > 1 and "SLURM_STEP_ID" in os.environ:  # else srun has not started this process
            raise InputError(
                f"Slurm started {tasks} tasks, but trainer.devices {trainer.devices} on trainer.num_nodes "
                f"{trainer.num_nodes} are {processes} processes; give --trainer.devices the tasks of a node "
                "(--ntasks-per-node) and --trainer.num_nodes the nodes"
            )
    return launched_by_hand(os.environ, devices)


def launched_by_hand(variables: Mapping[str, str], devices: int) -> Launch | None:
    """Read what somebody set who started each process by hand: ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``.

    Processes that Lightning starts have no ``RANK``. Lightning computes a rank as ``NODE_RANK`` x devices +
    ``LOCAL_RANK`` and ignores ``RANK``, so both must agree.

    Raises:
        InputError: They contradict each other, or one is missing or no number.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    if not all(variables.get(name) for name in names) or variables["WORLD_SIZE"] == "1":
        return None
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not variables.get(name):
            raise InputError(f"{name} is not set beside RANK and WORLD_SIZE; give all processes the same")
    node_name = "NODE_RANK" if variables.get("NODE_RANK") else "GROUP_RANK"
    numbers: dict[str, int] = {}
    for name in (*names, node_name, "MASTER_PORT"):
        try:
            numbers[name] = int(variables.get(name) or 0)
        except ValueError:
            raise InputError(f"{name} is '{variables[name]}'; set it to a whole number") from None
    rank, local, world, node, port = numbers.values()
    if rank != node * devices + local:
        raise InputError(
            f"RANK is {rank}, but node {node} x {devices} devices + LOCAL_RANK {local} is "
            f"{node * devices + local}; set NODE_RANK, LOCAL_RANK and --trainer.devices to fit"
        )
    if not 0 <= rank < world:
        raise InputError(f"RANK is {rank} and WORLD_SIZE {world}; ranks are counted from 0 to {world - 1}")
    return Launch(rank, world, variables["MASTER_ADDR"], port)


def address_origin(variables: Mapping[str, str]) -> tuple[str, str]:
    """Name the source of rank zero's address, and what to do when it is wrong."""
    if variables.get("TORCHELASTIC_RUN_ID"):
        return "MASTER_ADDR, from torchrun", "give the first node's torchrun --local-addr with its IP address"
    for name in ("SLURM_NODELIST", "SLURM_JOB_NODELIST"):
        if variables.get(name) and not variables.get("MASTER_ADDR"):
            return f"the first name of {name}", "set MASTER_ADDR to the IP address of that node"
    return Launch.origin, Launch.remedy


def join(launch: Launch | None, timeout_s: float) -> Meeting:
    """Wait for the other processes of the run before anything that can fail on one rank alone.

    Raises:
        InputError: The address does not lead to rank zero, or a rank does not come; names it.
        FailedElsewhere: Another process says so.
    """
    if launch is None or launch.world_size == 1:
        return alone()
    if reason := _why_unresolved(launch.address, min(RESOLVE_S, timeout_s)):
        raise say_on_host(
            f"{launch.me}: the address of rank 0, {launch.address} ({launch.origin}), has no IP address: "
            f"{reason}; {launch.remedy}",
            f"no address {launch.address}",
        )
    if launch.rank == 0:
        store = _serve(launch)
        welcome = _receive_all(launch, store, timeout_s)
    else:
        store, welcome = _reach_rank_zero(launch, timeout_s)
    hosts, own_keys = dict(enumerate(welcome["hosts"])), PrefixStore(welcome["prefix"], store)
    messages = connect(
        lambda: ProcessGroupGloo(own_keys, launch.rank, launch.world_size, PATIENCE), launch.me
    )
    return Meeting(launch.rank, launch.world_size, hosts, messages, store)


def _why_unresolved(address: str, timeout_s: float) -> str | None:
    """Say why a name has no address within a time: in a cluster that is starting, names appear late."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = deadline - time.monotonic()
        try:
            bounded(lambda: socket.getaddrinfo(address, None, type=socket.SOCK_STREAM), max(left, 0.1))
            return None
        except TimeoutError:
            return f"the resolver did not answer within {timeout_s:.0f} s"
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
        if left < 1:
            return str(reason)
        time.sleep(1)


def _serve(launch: Launch) -> TCPStore:
    """Open the store on rank zero, or connect to torchrun's, which outlives the processes that it starts."""
    is_served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    reason = None if is_served else _why_not_here(launch.address, launch.port)
    if reason is None:
        try:
            return bounded(lambda: _open_store(launch, not is_served), ANSWER_S)
        except (RuntimeError, TimeoutError) as error:
            reason = str(error).splitlines()[0]
    where = f"{launch.address}:{launch.port} ({launch.origin}; {launch.remedy})"
    raise InputError(f"{launch.me} cannot meet the others at {where}: {reason}")


def _why_not_here(address: str, port: int) -> str | None:
    """Say why this process cannot serve at an address; the store would say it later and less clearly."""
    try:
        server = socket.create_server(("", port))
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "it is taken by another program" if taken else str(error.strerror)
        return f"port {port} cannot be opened: {reason}; set MASTER_PORT to a free one on all hosts"
    with server:
        server.settimeout(1)
        try:
            with socket.create_connection((address, port), 5):
                server.accept()[0].close()
        except OSError as error:
            return f"{address} does not lead to this host ({error.strerror or error})"
    return None


def _open_store(launch: Launch, serve: bool) -> TCPStore:
    """Open the store at the address where ``init_process_group`` is going to look for it.

    Within its process, a server is shared with the process group that is made later for the same port
    (``multi_tenant``). The store does not wait for other processes: the process group counts them.
    """
    return TCPStore(
        launch.address,
        launch.port,
        launch.world_size,
        serve,
        timedelta(seconds=ANSWER_S),
        wait_for_workers=False,
        multi_tenant=True,
    )


def _receive_all(launch: Launch, store: TCPStore, timeout_s: float) -> dict[str, Any]:
    """Wait on rank zero for a hello of each rank, and welcome all."""
    keys = {rank: f"{_HELLO}/{rank}" for rank in range(1, launch.world_size)}
    for key in keys.values():  # of processes that torchrun started before these
        store.delete_key(key)
    _forget_process_group(store, launch.world_size)
    hellos: dict[int, list[dict[str, Any]]] = {}
    wrong, deadline = "", time.monotonic() + timeout_s
    while len(hellos) < len(keys) and not wrong and time.monotonic() < deadline:
        for rank, key in keys.items():
            if store.check([key]):
                hello, known = json.loads(store.get(key)), hellos.setdefault(rank, [])
                wrong = wrong or _why_refused(launch, rank, hello, known)
                if hello not in known:
                    known.append(hello)
        time.sleep(_POLL_S)
    missing = [rank for rank in keys if rank not in hellos]
    if missing and not wrong:
        wrong = (
            f"{name_ranks(missing, {})} of {launch.world_size} did not come to {launch.me} at "
            f"{launch.address}:{launch.port} within {timeout_s:.0f} s; see whether they were started, each "
            "with its own RANK, and their logs"
        )
    hosts = [socket.gethostname(), *(hellos[rank][-1]["host"] for rank in sorted(hellos))]
    prefix = f"yolo_lightning/{secrets.token_hex(8)}"  # of keys that an earlier attempt has not written
    welcome = {"failure": wrong, "prefix": prefix, "hosts": hosts}
    for known in hellos.values():
        for hello in known if wrong else known[-1:]:  # the processes before the last of a rank are dead
            store.set(hello["answer"], json.dumps(welcome))
    if wrong := wrong or _dismiss_dead(PrefixStore(prefix, store), dict(enumerate(hosts))):
        time.sleep(10 * _POLL_S)  # the store ends with this process
        raise InputError(wrong)
    return welcome


def _why_refused(launch: Launch, rank: int, hello: dict[str, Any], known: list[dict[str, Any]]) -> str:
    """Say what is wrong with a process, whose hello comes after those that are known of its rank."""
    if hello in known[:-1]:  # a process that replaces a dead one would have the last word
        return (
            f"two processes call themselves rank {rank}, on {known[-1]['host']} and on {hello['host']}; give "
            "each its own RANK (NODE_RANK and LOCAL_RANK)"
        )
    if hello["world_size"] != launch.world_size:
        return (
            f"rank {rank} on {hello['host']} is one of {hello['world_size']} processes but {launch.me} is "
            f"one of {launch.world_size}; start all with the same WORLD_SIZE"
        )
    return ""


def _dismiss_dead(store: PrefixStore, hosts: dict[int, str]) -> str:
    """Name on rank zero the ranks that said hello but did not read the welcome, and tell the others."""
    missing, deadline = [*hosts][1:], time.monotonic() + HERE_S
    while missing and time.monotonic() < deadline:
        missing = [rank for rank in missing if not store.check([f"here/{rank}"])]
        time.sleep(_POLL_S)
    wrong = f"{name_ranks(missing, hosts)} exited while the ranks met; see its log" if missing else ""
    store.set("failure", wrong)
    return wrong


def _forget_process_group(store: TCPStore, world_size: int) -> None:
    """Remove what a process group of an earlier attempt left in the store of torchrun.

    torchrun keeps its store when it starts processes again, and a new process group would take the
    addresses of dead processes from it. Called before any rank makes a process group.
    """
    try:
        keys = store.list_keys()
    except (AttributeError, RuntimeError):  # an older torch
        keys = [f"default_pg/0//{device}//0" for device in ("cpu", "cuda")]
        keys += [f"{key}/{rank}" for key in keys for rank in range(world_size)]
    for key in keys:
        if key.startswith("default_pg/"):
            store.delete_key(key)


def _reach_rank_zero(launch: Launch, timeout_s: float) -> tuple[TCPStore, dict[str, Any]]:
    """Connect another rank to the store, say hello and wait for the welcome."""
    try:
        store = _find_store(launch, timeout_s)
        welcome = bounded(lambda: _say_hello(launch, store, timeout_s), timeout_s + 2 * ANSWER_S)
        if not welcome["failure"]:
            keys = PrefixStore(welcome["prefix"], store)
            keys.set(f"here/{launch.rank}", "")
            welcome["failure"] = bounded(lambda: keys.get("failure"), HERE_S + ANSWER_S).decode()
    except (OSError, RuntimeError, TimeoutError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise say_on_host(
            f"{launch.me}: rank 0 cannot be reached at {launch.address}:{launch.port} ({launch.origin}) "
            f"within {timeout_s:.0f} s: {reason}; see whether rank 0 runs and whether the TCP ports between "
            f"the hosts are open, or {launch.remedy}",
            f"unreachable {launch.address}:{launch.port}",
        ) from None
    if welcome["failure"]:
        failure = FailedElsewhere(welcome["failure"])
        time.sleep(30 * _POLL_S)  # a launcher that sees one process end ends the others, the speaker too
        raise failure
    return store, welcome


def _find_store(launch: Launch, timeout_s: float) -> TCPStore:
    """Connect to the store as soon as it is there. Its own client would write each refusal to the log."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((launch.address, launch.port), 5).close()
            return bounded(lambda: _open_store(launch, False), ANSWER_S)
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(2 * _POLL_S)


def _say_hello(launch: Launch, store: TCPStore, timeout_s: float) -> dict[str, Any]:
    """Repeat this process's hello, as rank zero may remove the first with old ones, until it is welcomed.

    The answer has a key of its own: that to an earlier process cannot be read, nor vanish while it is read.
    """
    answer = f"yolo_lightning/welcome/{secrets.token_hex(8)}"
    hello = {"answer": answer, "host": socket.gethostname(), "world_size": launch.world_size}
    deadline = time.monotonic() + timeout_s + ANSWER_S
    while not store.check([answer]):
        if time.monotonic() > deadline:
            raise TimeoutError(f"it does not answer, or began without this one of {launch.world_size} ranks")
        store.set(f"{_HELLO}/{launch.rank}", json.dumps(hello))
        # Out of step, so that rank zero reads either of two processes with one rank.
        time.sleep(_POLL_S * (1 + secrets.randbelow(10) / 10))
    welcome: dict[str, Any] = json.loads(store.get(answer))
    return welcome
