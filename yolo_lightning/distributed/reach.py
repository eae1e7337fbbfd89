"""From the address of rank zero to the store of torch.distributed that is served there, in bounded time."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import timedelta
from typing import TypeVar

from torch.distributed import TCPStore

T = TypeVar("T")

ANSWER_S = 20.0
"""How long one question to the store may take, in s."""


def bounded(call: Callable[[], T], seconds: float) -> T:
    """What a call returns or raises, if it does so in time; a call that hangs is left behind.

    Raises:
        TimeoutError: It does not.
    """
    future = begin(call)
    if not wait([future], seconds).done:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return future.result()


def begin(call: Callable[[], T]) -> Future[T]:
    """A call that has begun in a thread which does not keep the process from ending."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="preflight").start()
    return future


def why_unresolved(address: str, timeout_s: float) -> str | None:
    """Why a name has no address here, or None where it has one.

    It is asked for again and again for the given time: in a cluster that is starting, names appear.
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


def why_unreachable(address: str, port: int, timeout_s: float) -> str | None:
    """Why nobody answers at a port, or None as soon as somebody does.

    The store's own client would try as well, but not without writing each refusal to the log.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((address, port), 5).close()
            return None
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() > deadline:
            return reason
        time.sleep(0.2)


def open_store(address: str, port: int, world_size: int, serve: bool, timeout_s: float) -> TCPStore:
    """The store at the address where ``init_process_group`` is going to look for it.

    A server that is made here is shared, within its process, by the process group that is made later
    for the same port (``multi_tenant``). Nobody is waited for: the process group counts those who come.

    Args:
        address: of the host of rank zero.
        port: of the store there.
        world_size: processes of the run.
        serve: whether this process is the server.
        timeout_s: how long to try.

    Raises:
        RuntimeError: The port is taken, or the server cannot be reached.
    """
    return bounded(
        lambda: TCPStore(
            address,
            port,
            world_size,
            serve,
            timedelta(seconds=timeout_s),
            wait_for_workers=False,
            multi_tenant=True,
            use_libuv=os.environ.get("USE_LIBUV", "1") == "1",
        ),
        timeout_s + 5,
    )


def why_not_here(address: str, port: int) -> str | None:
    """Why this process cannot serve at an address, or None where it can.

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


def is_served_by_launcher() -> bool:
    """Whether torchrun serves the store, also for the processes that it starts again later."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def forget_process_group(store: TCPStore, world_size: int) -> None:
    """Remove what a process group of an earlier attempt left in the store of torchrun.

    torchrun keeps its store when it starts processes again, and a new process group would take the
    addresses of dead processes from it. To be called while nobody makes a process group.
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
