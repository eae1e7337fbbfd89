"""Processes that start in a second: forked from one that has imported the package and does nothing else.

Such a process ends without what ``atexit`` has registered, so tests of that start Python anew.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch.multiprocessing

TIMEOUT_S = 200

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["yolo_lightning.cli.main"])  # for all who use it, torch included


def run(
    arguments: Sequence[str], ranks: int = 1, environment: Mapping[str, str] = MappingProxyType({})
) -> tuple[list[int | None], str]:
    """Run the command line on so many ranks, side by side as by hand; whoever hangs is killed.

    Args:
        arguments: After the program's name.
        ranks: Processes.
        environment: Variables besides those of this process.

    Returns:
        The exit status of each rank, and what they have written, one after the other.
    """
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    processes: list[ForkServerProcess] = []
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / str(rank) for rank in range(ranks)]
        try:
            for rank, log in enumerate(logs):
                place = {**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
                processes.append(start(arguments, log, {**environment, **place}))
            deadline = time.monotonic() + TIMEOUT_S
            for process in processes:
                process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for process in processes:
                process.kill()
                process.join()
        return [process.exitcode for process in processes], "\n".join(log.read_text() for log in logs)


def start(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> ForkServerProcess:
    """Start the command line in one process.

    Args:
        arguments: After the program's name.
        log: File to which its output is added.
        environment: Variables besides those of this process.
    """
    return start_call(_main, log, environment, list(arguments))


def start_call(
    work: Callable[..., None], log: Path, environment: Mapping[str, str], *arguments: Any
) -> ForkServerProcess:
    """Call ``work(*arguments)`` in one process, as :func:`start` does with the command line."""
    own = {**os.environ, **environment}
    process = _CONTEXT.Process(target=_begin, args=(log, own, work, arguments))
    process.start()
    return process


def side_by_side(work: Callable[..., None], ranks: int, *arguments: Any) -> None:
    """Call ``work(rank, *arguments)`` in a process for each rank; what one raises is raised here."""
    torch.multiprocessing.start_processes(work, arguments, nprocs=ranks, start_method="forkserver")


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    return free_ports(1)[0]


def free_ports(number: int) -> list[int]:
    """Different TCP ports of this machine that nobody listens on.

    They lie below those that systems give to outgoing connections, which could take one before it is used.
    """
    with ExitStack() as sockets:
        found: list[int] = []
        while len(found) < number:
            port = random.SystemRandom().randrange(20_000, 32_000)
            with suppress(OSError):
                sockets.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
        return found


def _begin(
    log: Path, environment: dict[str, str], work: Callable[..., None], arguments: Sequence[Any]
) -> None:
    """What the new process does."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.clear()  # it is that of when the first of these processes was started
    os.environ.update(environment)

    work(*arguments)


def _main(arguments: list[str]) -> None:
    import torch
    from lightning.pytorch.utilities import rank_zero_only

    from yolo_lightning.__main__ import main

    torch.set_num_threads(1)
    # Lightning looks when it is imported, which it has been.
    rank_zero_only.rank = int(os.environ.get("RANK", 0))  # type: ignore[attr-defined]
    main(arguments)
