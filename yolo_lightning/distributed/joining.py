"""How the processes of a run find one another."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Callable
from typing import TypeVar

from torch.distributed import TCPStore

from ..errors import InputError
from .channel import Channel, Door, knock
from .environment import Environment, address_origin
from .failure import FailedElsewhere, name_ranks, say_on_host
from .reach import (
    ANSWER_S,
    bounded,
    forget_process_group,
    is_served_by_launcher,
    open_store,
    why_not_here,
    why_unreachable,
    why_unresolved,
)
from .rendezvous import Rendezvous, alone

T = TypeVar("T")

ARRIVAL_S = 120.0
"""How long the first waits for the last by default, in s."""
RESOLVE_S = 8.0
"""How long a name may take to get an address, in s."""
_DOOR = "yolo_lightning/preflight/door"


def join(environment: Environment, timeout_s: float = ARRIVAL_S) -> Rendezvous:
    """Wait until all processes of the run are here.

    To be called before anything that can fail on one rank alone, and before Lightning reads
    ``main_address``, which puts ``MASTER_ADDR`` into the environment.

    Args:
        environment: which process this is, and where rank zero is.
        timeout_s: how long to wait for the others.

    Returns:
        All of them; of a run of one process, that one.

    Raises:
        InputError: The address does not lead to rank zero, or somebody does not come; names the rank.
        FailedElsewhere: Another process says so.
    """
    origin, remedy = address_origin(os.environ)
    world_size, rank = environment.world_size(), environment.global_rank()
    if world_size == 1:
        return alone()
    address, port = environment.main_address, environment.main_port
    here = Rendezvous(rank, world_size, {rank: socket.gethostname()})
    me = name_ranks([rank], here.hosts)
    reason = why_unresolved(address, min(RESOLVE_S, timeout_s))
    if reason:
        sentence = f"{me}: the address of rank 0, {address} ({origin}), has no IP address: {reason}; {remedy}"
        raise say_on_host(sentence, f"no address {address}")
    deadline = time.monotonic() + timeout_s
    if rank == 0:
        return _receive_all(here, address, port, deadline, f"{origin}; {remedy}")
    try:
        return _call_on(here, address, port, deadline)
    except FailedElsewhere:
        raise
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    sentence = (
        f"{me}: rank 0 cannot be reached at {address}:{port} ({origin}) within {timeout_s:.0f} s: {reason}; "
        f"see whether rank 0 runs and whether the TCP ports between the hosts are open, or {remedy}"
    )
    raise say_on_host(sentence, f"unreachable {address}:{port}")


def _receive_all(here: Rendezvous, address: str, port: int, deadline: float, advice: str) -> Rendezvous:
    """On rank zero: open the door and wait for all."""
    me = name_ranks([0], here.hosts)
    served = is_served_by_launcher()
    reason = None if served else why_not_here(address, port)
    if reason is None:
        try:
            here.store = open_store(address, port, here.world_size, not served, ANSWER_S)
        except (RuntimeError, TimeoutError) as error:
            reason = str(error).splitlines()[0]
    if here.store is None:
        raise InputError(f"{me} cannot meet the others at {address}:{port} ({advice}): {reason}")
    here.token = secrets.token_hex(8)
    door = Door(here.token)
    entry = json.dumps({"port": door.port, "token": here.token})
    _store_answer(here.store, lambda store: store.set(_DOOR, entry))
    wrong = ""
    started = time.monotonic()
    while len(here.channels) < here.world_size - 1 and not wrong and time.monotonic() < deadline:
        admitted = door.admit(deadline - time.monotonic())
        if admitted:
            wrong = _register(here, *admitted)
    door.close()
    missing = [rank for rank in range(here.world_size) if rank not in here.hosts]
    if missing and not wrong:
        wrong = (
            f"{name_ranks(missing, {})} of {here.world_size} did not come to {me} at {address}:{port} within "
            f"{time.monotonic() - started:.0f} s; see whether they were started, and their logs"
        )
    if not wrong and served:
        _store_answer(here.store, lambda store: forget_process_group(store, here.world_size))
    hosts = [here.hosts.get(rank, "") for rank in range(here.world_size)]
    here.announce({"failure": wrong, "hosts": hosts})
    if wrong:
        raise here.ending(InputError(wrong))
    return here


def _register(here: Rendezvous, channel: Channel, hello: dict[str, object]) -> str:
    """Note who has come; what is wrong with it, or nothing."""
    rank, host, world_size = int(str(hello["rank"])), str(hello["host"]), hello["world_size"]
    known = here.hosts.get(rank)
    if world_size != here.world_size or not 0 <= rank < here.world_size:
        here.channels[-1] = channel
        return (
            f"rank {rank} on {host} is one of {world_size} processes but {name_ranks([0], here.hosts)} is "
            f"one of {here.world_size}; start all with the same WORLD_SIZE"
        )
    if known is not None and (rank == 0 or not here.channels[rank].has_ended()):
        here.channels[-1] = channel
        return (
            f"two processes call themselves rank {rank}, on {known} and on {host}; give each its own RANK "
            "(NODE_RANK and LOCAL_RANK)"
        )
    here.channels[rank], here.hosts[rank] = channel, host
    return ""


def _call_on(here: Rendezvous, address: str, port: int, deadline: float) -> Rendezvous:
    """On the others: find the door of rank zero and go in.

    Raises:
        OSError, RuntimeError: Rank zero cannot be reached.
        FailedElsewhere: It says what is wrong.
    """
    timeout_s = deadline - time.monotonic()
    reason = why_unreachable(address, port, timeout_s)
    if reason:
        raise OSError(0, reason)
    here.store = open_store(address, port, here.world_size, False, ANSWER_S)
    hello = {"rank": here.rank, "host": here.hosts[here.rank], "world_size": here.world_size}
    reason = "it has not come"
    while time.monotonic() < deadline:
        if _store_answer(here.store, lambda store: store.check([_DOOR])):
            entry = json.loads(_store_answer(here.store, lambda store: store.get(_DOOR)))
            try:  # what a process of an earlier attempt left in torchrun's store leads to nobody
                hello["token"] = here.token = entry["token"]
                channel = knock(address, entry["port"], hello, 5)
            except OSError as error:
                reason = f"its port {entry['port']}: {error.strerror or error}"
            else:
                return _welcome(here, channel, timeout_s)
        time.sleep(0.1)
    raise OSError(0, reason)


def _welcome(here: Rendezvous, channel: Channel, timeout_s: float) -> Rendezvous:
    """Wait inside until all have come."""
    here.channels[0] = channel
    answer = here.heed("the others were coming", channel, timeout_s + ANSWER_S)
    here.hosts = dict(enumerate(answer["hosts"]))
    return here


def _store_answer(store: TCPStore, question: Callable[[TCPStore], T]) -> T:
    """One question to the store, which would wait for ever for a server that has stopped."""
    return bounded(lambda: question(store), ANSWER_S)
