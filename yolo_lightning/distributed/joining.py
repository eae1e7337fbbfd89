"""Joining: the processes of a run find one another through the store of their process group."""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import time
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore

from ..errors import InputError
from .failure import FailedElsewhere, name_ranks, say_on_host
from .launch import Launch, find_launch
from .meeting import Meeting, alone
from .messages import PATIENCE, connect
from .time_limit import bounded

ARRIVAL_S = 120.0
"""Default wait of the first process for the last, in s."""
RESOLVE_S = 8.0
"""Longest wait for the address of a name, in s."""
HERE_S = 10.0
"""Time for ranks that have said hello to read the welcome, in s."""
ANSWER_S = 20.0
"""Longest wait for an answer of the store, in s."""
_POLL_S = 0.1
_ROOT = "yolo_lightning"
_WELCOME = f"{_ROOT}/welcome"
"""Key under which rank zero writes who has come, or what is wrong."""


def meet(config: Any) -> Meeting:
    """Meet the other processes of the run, unless Lightning is going to start them.

    Args:
        config: the options of a subcommand.

    Raises:
        InputError: As :func:`join`, or the launcher started another number of processes.
    """
    launch = find_launch(config)
    return join(launch, config.preflight_seconds) if launch else alone()


def join(launch: Launch, timeout_s: float = ARRIVAL_S) -> Meeting:
    """Wait until all processes of the run are here; called before anything that can fail on one rank alone.

    Args:
        launch: which process this is, and where rank zero is.
        timeout_s: how long to wait for the others.

    Raises:
        InputError: The address does not lead to rank zero, or a rank does not come; names it.
        FailedElsewhere: Another process says so.
    """
    if launch.world_size == 1:
        return alone()
    me = name_ranks([launch.rank], {launch.rank: socket.gethostname()})
    reason = _why_unresolved(launch.address, min(RESOLVE_S, timeout_s))
    if reason:
        raise say_on_host(
            f"{me}: the address of rank 0, {launch.address} ({launch.origin}), has no IP address: {reason}; "
            f"{launch.remedy}",
            f"no address {launch.address}",
        )
    if launch.rank == 0:
        store = _serve(launch, me)
        welcome = _receive_all(launch, store, me, timeout_s)
    else:
        store, welcome = _reach_rank_zero(launch, me, timeout_s)
    hosts, own_keys = dict(enumerate(welcome["hosts"])), _own_keys(store, welcome)
    messages = connect(
        lambda: ProcessGroupGloo(own_keys, launch.rank, launch.world_size, PATIENCE), launch.rank
    )
    return Meeting(launch.rank, launch.world_size, hosts, messages, store)


def _why_unresolved(address: str, timeout_s: float) -> str | None:
    """Say why a name has no address, or None where it has one.

    It is asked for repeatedly within the given time: in a cluster that is starting, names appear late.
    """
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


def _serve(launch: Launch, me: str) -> TCPStore:
    """Open the store on rank zero, or connect to torchrun's, which outlives the processes that it starts."""
    is_served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    reason = None if is_served else _why_not_here(launch.address, launch.port)
    if reason is None:
        try:
            return bounded(lambda: _open_store(launch, not is_served), ANSWER_S)
        except (RuntimeError, TimeoutError) as error:
            reason = str(error).splitlines()[0]
    where = f"{launch.address}:{launch.port} ({launch.origin}; {launch.remedy})"
    raise InputError(f"{me} cannot meet the others at {where}: {reason}")


def _why_not_here(address: str, port: int) -> str | None:
    """Say why this process cannot serve at an address, or None where it can.

    Found out with plain sockets: the store would say it less clearly, after a longer time.
    """
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
        use_libuv=os.environ.get("USE_LIBUV", "1") == "1",
    )


def _receive_all(launch: Launch, store: TCPStore, me: str, timeout_s: float) -> dict[str, Any]:
    """Wait on rank zero for a hello of each rank, and welcome all."""
    keys = {rank: _hello_key(rank) for rank in range(1, launch.world_size)}
    for key in (_WELCOME, *keys.values()):  # of processes that torchrun started before these
        store.delete_key(key)
    _forget_process_group(store, launch.world_size)
    hellos: dict[int, list[dict[str, Any]]] = {}
    wrong, deadline = "", time.monotonic() + timeout_s
    while len(hellos) < len(keys) and not wrong and time.monotonic() < deadline:
        for rank, key in keys.items():
            if store.check([key]):
                hello = json.loads(store.get(key))
                wrong = wrong or _why_refused(launch, me, hello, hellos.setdefault(rank, []))
        time.sleep(_POLL_S)
    missing = [rank for rank in keys if rank not in hellos]
    if missing and not wrong:
        wrong = (
            f"{name_ranks(missing, {})} of {launch.world_size} did not come to {me} at "
            f"{launch.address}:{launch.port} within {timeout_s:.0f} s; see whether they were started, and "
            "their logs"
        )
    hosts = [socket.gethostname(), *(hellos[rank][-1]["host"] for rank in sorted(hellos))]
    welcome = {
        "failure": wrong,
        "world_size": launch.world_size,
        "token": secrets.token_hex(8),
        "hosts": hosts,
        # After a failure it is for each that came, else for the last of each rank.
        "for": [hello["token"] for known in hellos.values() for hello in (known if wrong else known[-1:])],
    }
    store.set(_WELCOME, json.dumps(welcome))
    if not wrong:
        wrong = _dismiss_dead(_own_keys(store, welcome), dict(enumerate(hosts)))
    if wrong:
        time.sleep(10 * _POLL_S)  # the store ends with this process
        raise InputError(wrong)
    return welcome


def _dismiss_dead(store: PrefixStore, hosts: dict[int, str]) -> str:
    """Name on rank zero the ranks that said hello but did not read the welcome, and tell the others."""
    missing, deadline = [*hosts][1:], time.monotonic() + HERE_S
    while missing and time.monotonic() < deadline:
        missing = [rank for rank in missing if not store.check([f"here/{rank}"])]
        time.sleep(_POLL_S)
    wrong = f"{name_ranks(missing, hosts)} exited while the ranks met; see its log" if missing else ""
    store.set("failure", json.dumps(wrong))
    return wrong


def _own_keys(store: TCPStore, welcome: dict[str, Any]) -> PrefixStore:
    """Keys of this attempt of the run, which an earlier one has not written."""
    return PrefixStore(f"{_ROOT}/{welcome['token']}", store)


def _hello_key(rank: int) -> str:
    return f"{_ROOT}/hello/{rank}"


def _why_refused(launch: Launch, me: str, hello: dict[str, Any], known: list[dict[str, Any]]) -> str:
    """Note the hello of a process, which repeats it until it is welcomed; say what is wrong with it."""
    if known and hello == known[-1]:
        return ""
    if hello in known:  # one that was started anew would not have come back
        return (
            f"two processes call themselves rank {hello['rank']}, on {known[-1]['host']} and on "
            f"{hello['host']}; give each its own RANK (NODE_RANK and LOCAL_RANK)"
        )
    known.append(hello)
    if hello["world_size"] != launch.world_size:
        return (
            f"rank {hello['rank']} on {hello['host']} is one of {hello['world_size']} processes but {me} is "
            f"one of {launch.world_size}; start all with the same WORLD_SIZE"
        )
    return ""


def _forget_process_group(store: TCPStore, world_size: int) -> None:
    """Remove what a process group of an earlier attempt left in the store of torchrun.

    torchrun keeps its store when it starts processes again, and a new process group would take the
    addresses of dead processes from it. Called before any rank makes a process group.
    """
    try:
        keys = store.list_keys()
    except (AttributeError, RuntimeError):  # an older torch
        devices = ("cpu", "cuda")
        keys = [f"default_pg/0//{device}//0" for device in devices]
        keys += [f"{key}/{rank}" for key in keys for rank in range(world_size)]
    for key in keys:
        if key.startswith("default_pg/"):
            store.delete_key(key)


def _reach_rank_zero(launch: Launch, me: str, timeout_s: float) -> tuple[TCPStore, dict[str, Any]]:
    """Connect another rank to the store, say hello and wait for the welcome."""
    try:
        store = _find_store(launch, timeout_s)
        welcome = bounded(lambda: _say_hello(launch, store, timeout_s), timeout_s + 2 * ANSWER_S)
        if not welcome["failure"]:
            keys = _own_keys(store, welcome)
            keys.set(f"here/{launch.rank}", "")
            welcome["failure"] = json.loads(bounded(lambda: keys.get("failure"), HERE_S + ANSWER_S))
    except (OSError, RuntimeError, TimeoutError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise say_on_host(
            f"{me}: rank 0 cannot be reached at {launch.address}:{launch.port} ({launch.origin}) within "
            f"{timeout_s:.0f} s: {reason}; see whether rank 0 runs and whether the TCP ports between the "
            f"hosts are open, or {launch.remedy}",
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
    """Repeat this process's hello, as rank zero may remove the first with old ones, until it is welcomed."""
    token = secrets.token_hex(8)
    hello = {
        "rank": launch.rank,
        "host": socket.gethostname(),
        "world_size": launch.world_size,
        "token": token,
    }
    deadline, reason = time.monotonic() + timeout_s + ANSWER_S, "rank 0 does not answer"
    while time.monotonic() < deadline:
        store.set(_hello_key(launch.rank), json.dumps(hello))
        if store.check([_WELCOME]):
            welcome: dict[str, Any] = json.loads(store.get(_WELCOME))
            if token in welcome["for"]:
                return welcome
            reason = (
                f"it began as one of {welcome['world_size']} processes without this one of "
                f"{launch.world_size}; start all with the same WORLD_SIZE, each with its own RANK"
            )
        time.sleep(
            _POLL_S * (1 + int(token, 16) % 10 / 10)
        )  # of two with one rank, now this, now that is read
    raise TimeoutError(reason)
