"""Messages between rank zero and the others over sockets that end when a process ends.

The end of a process closes its socket whatever it was busy with, so that nobody has to prove that it
is alive; the end of a host is found by the system's own probes after :data:`SILENCE_S`.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

SILENCE_S = 30
"""After this many s a host that does not answer the system's probes counts as gone."""
_LARGEST = 1 << 24
"""Bytes of the longest message."""


class Ended(ConnectionError):
    """The process at the other end is gone."""


class Channel:
    """JSON messages over one connection, one a line.

    Args:
        connection: an open TCP connection.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        probes = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
        for name, value in {**probes, "TCP_USER_TIMEOUT": SILENCE_S * 1000}.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def fileno(self) -> int:
        """Makes it selectable."""
        return self._connection.fileno()

    def send(self, message: Any) -> None:
        """Send one message; to somebody who is gone, in vain."""
        with suppress(OSError):  # who receives next learns of the end
            self._connection.settimeout(SILENCE_S)
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout_s: float | None) -> Any:
        """The next message.

        Args:
            timeout_s: how long to wait for it; None waits as long as the other process lives.

        Raises:
            TimeoutError: It did not come in time.
            Ended: The other process is gone, or it does not speak this language.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while b"\n" not in self._received:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.001)
            try:
                self._connection.settimeout(left)
                part = self._connection.recv(1 << 16)
            except OSError as error:
                if isinstance(error, TimeoutError) and error.errno is None:  # ours, not the system's probes
                    raise
                raise Ended(str(error)) from None
            if not part or len(self._received) > _LARGEST:
                raise Ended("end of file")
            self._received += part
        line, self._received = self._received.split(b"\n", 1)
        try:
            return json.loads(line)
        except ValueError:
            raise Ended("not a message") from None

    def wait_for_end(self, timeout_s: float) -> None:
        """Until the other process is gone, at most for so many s."""
        with suppress(OSError):
            self.receive(timeout_s)

    def has_ended(self) -> bool:
        """Whether the other process, which has nothing to say at the moment, is gone."""
        return bool(wait_for_any([self], 0))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def wait_for_any(channels: Iterable[Channel], timeout_s: float | None) -> list[Channel]:
    """Those of some channels that have a message or have ended; none after so many s."""
    with selectors.DefaultSelector() as selector:
        for channel in channels:
            selector.register(channel, selectors.EVENT_READ, channel)
        return [key.data for key, _ in selector.select(timeout_s)]


class Door:
    """Where rank zero lets the others in.

    Args:
        token: what they must say.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        self._listener = socket.create_server(("", 0), family=family, backlog=1024, dualstack_ipv6=dual)

    @property
    def port(self) -> int:
        """The TCP port, chosen by the system."""
        return int(self._listener.getsockname()[1])

    def admit(self, timeout_s: float) -> tuple[Channel, dict[str, Any]] | None:
        """The next who knocks and knows the token, and what it says of itself; None if nobody in time."""
        self._listener.settimeout(max(timeout_s, 0.001))
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return None
        channel = Channel(connection)
        try:
            hello = channel.receive(min(timeout_s, 5))
        except (Ended, TimeoutError):
            hello = None
        if not isinstance(hello, dict) or hello.get("token") != self.token:
            channel.close()
            return None
        channel.send({"token": self.token})
        return channel, hello

    def close(self) -> None:
        """Let nobody in any more."""
        self._listener.close()


def knock(address: str, port: int, hello: dict[str, Any], timeout_s: float) -> Channel:
    """Connect to the door of rank zero.

    Args:
        address: of its host.
        port: of its door.
        hello: what to say of this process, with the ``token``.
        timeout_s: how long to try.

    Raises:
        OSError: Nobody opens, or somebody else does.
    """
    channel = Channel(socket.create_connection((address, port), timeout_s))
    channel.send(hello)
    try:
        answer = channel.receive(timeout_s)
    except OSError:
        channel.close()
        raise
    if not isinstance(answer, dict) or answer.get("token") != hello["token"]:
        channel.close()
        raise Ended("somebody else answers")
    return channel
