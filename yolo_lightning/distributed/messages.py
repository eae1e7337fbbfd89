"""Messages between ranks over gloo.

When a process ends its connections break at once, even if it was busy, so no rank has to prove that it
is alive.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import zlib
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from .failure import begin, bounded, end_soon, say_on_host

OPEN_S = 60.0
"""Longest time for gloo to connect all ranks, in s."""
PATIENCE = timedelta(days=7)
"""Longest wait of gloo for a message: reading a large data set may take hours."""
_MESSAGE_BYTES = 1 << 18
"""Default size of a message, compressed: thousands of paths in an option fit."""


class Messages:
    """Messages between ranks, as JSON.

    Args:
        group: of gloo; all its ranks make the same calls in the same order.
        size: of every message, in bytes, compressed.
    """

    def __init__(self, group: Any, size: int = _MESSAGE_BYTES) -> None:
        self.group = group
        self._size = size
        self._calls: list[Future[Any]] = []
        atexit.register(self.close)

    def expect(self, rank: int) -> Future[Any]:
        """Start to receive a message; from here on it arrives, even if its sender ends.

        The future raises ``RuntimeError`` when the other process ends without sending one.
        """
        buffer = torch.zeros(self._size, dtype=torch.uint8)
        return self._begin(
            lambda: self.group.recv([buffer], rank, 0),
            lambda: json.loads(zlib.decompressobj().decompress(buffer.numpy().tobytes())),
        )

    def send(self, message: Any, rank: int) -> Future[Any]:
        """Start to send a message. The future raises ``RuntimeError`` if the other process has ended."""
        text = zlib.compress(json.dumps(message).encode())
        buffer = torch.zeros(self._size, dtype=torch.uint8)  # a message of one size needs no second one
        buffer[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        return self._begin(lambda: self.group.send([buffer], rank, 0), lambda: None)

    def _begin(self, start: Callable[[], Any], result: Callable[[], Any]) -> Future[Any]:
        """Start an exchange here, and wait for its end in a thread."""
        try:
            work = start()
        except RuntimeError as error:  # the other process has ended
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

        def finish() -> Any:
            work.wait()
            return result()

        self._calls = [call for call in self._calls if not call.done()]
        self._calls.append(begin(finish))
        return self._calls[-1]

    def close(self) -> None:
        """End all exchanges. Python aborts a process that ends while a thread of it waits in gloo."""
        atexit.unregister(self.close)
        if all(call.done() for call in self._calls):
            return
        for rank in range(self.group.size()):
            if rank != self.group.rank():
                with suppress(RuntimeError):  # gloo ends all that waits when one receive takes too long
                    self.group.recv([torch.zeros(1)], rank, 1).wait(timedelta(milliseconds=1))
        wait(self._calls, 1)


def connect(make_group: Callable[[], Any], me: str) -> Messages:
    """Connect all ranks.

    Args:
        make_group: returns the group of gloo; may hang.
        me: this rank and its host in words.

    Raises:
        InputError: gloo does not connect the ranks in time; the process then ends by force.
        FailedElsewhere: Another process of this host says so.
    """
    others = _sockets()
    try:
        group = bounded(make_group, OPEN_S)
        for descriptor in _sockets() - others:
            _probe_peer(descriptor)
        return Messages(group)
    except (RuntimeError, TimeoutError) as error:
        reason = " ".join(str(error).split())[:300]
    end_soon()  # the thread that still connects must not hold the process
    sentence = (
        f"{me}: gloo, by which the ranks talk to each other, does not connect them within {OPEN_S:.0f} s "
        f"({reason}); see whether a rank has ended, set GLOO_SOCKET_IFNAME to the interface that reaches the "
        "other nodes, one plain name such as eth0, and see that no firewall is between them"
    )
    raise say_on_host(sentence, "gloo")


def _sockets() -> set[int]:
    """Descriptors of the open sockets of this process; none where the system does not list them."""
    found = set()
    for entry in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # it has been closed meanwhile
            if os.readlink(entry).startswith("socket:"):
                found.add(int(entry.name))
    return found


def _probe_peer(descriptor: int) -> None:
    """Let the system end a connection whose host has vanished; gloo would wait for it as long as for work."""
    options = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
