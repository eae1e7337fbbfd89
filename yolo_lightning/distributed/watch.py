"""Watch over the ranks of a run: when one dies, fails or no longer answers, all end with one sentence."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..system.files import is_alive
from ..system.signals import training_has_begun
from ..system.text import duration, one_line
from .failure import FailedElsewhere, describe_error, describe_failures, end_soon, name_ranks, say_on_host
from .messages import Messages

BEAT_S = 5.0
"""Time between two signs of life, in s."""
SILENT_S = 30.0
"""Silence of a rank after which a line says so, in s."""
GRACE_S = 2.0
"""After one rank has failed, how long rank zero waits for reports of the others, in s."""
NEWS_S = 5.0
"""How long a process with an error waits for news of another rank that may have caused it, in s."""
FORCE_S = 20.0
"""Time for a process to end by itself once the run has failed, in s; NCCL may hold it."""
_VERDICT_S = 30.0
_FAREWELL_S = 10.0
_TICK_S = 0.5
_MESSAGE_BYTES = 1 << 13
_MOST_LETTERS = 2000
"""Length of a failure that fits into a message."""


@dataclass
class _Peer:
    """A rank that this one hears from."""

    incoming: Future[Any]
    outgoing: Future[Any] | None = None
    pid: int = 0
    silent_s: float = 0.0
    has_left: bool = False
    """It has ended as planned."""


class RankWatch:
    """Finds out which rank ends a run, and ends the others; a thread works from the first all-reduce on.

    All ranks exchange signs of life with rank zero. The connections of a process that dies break at once; a
    process that is stopped is silent. Rank zero says what has happened and tells the others, which end in
    silence. When rank zero itself dies or is silent, one process of each host says so.

    Args:
        rank: this one.
        hosts: rank to the name of its host.
        group: of gloo, used by nothing else.
        limit_s: silence after which the run ends, in s; at least twice :data:`SILENT_S`.
        position: returns the place in the run as text: ``in epoch 2, batch 17``.
    """

    def __init__(
        self, rank: int, hosts: Mapping[int, str], group: Any, limit_s: float, position: Callable[[], str]
    ) -> None:
        self.rank = rank
        self._hosts, self._places = hosts, dict(hosts)
        self._limit_s, self._position = max(limit_s, 2 * SILENT_S), position
        self._messages = Messages(group, _MESSAGE_BYTES)
        others = [0] if rank else [other for other in hosts if other]
        self._peers = {other: _Peer(self._messages.expect(other)) for other in others}
        self._failures: dict[int, str] = {}
        """Rank to sentence; on another rank than zero, what rank zero says or its own end."""
        self._own: str | None = None  # failure of this rank that rank zero is to be told
        self._verdict: FailedElsewhere | None = None
        self._has_news, self._is_decided = threading.Event(), threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="rank watch")
        self._thread.start()

    def report(self, error: Exception) -> None:
        """Find out which rank has caused an error of this one; if it is this one, tell the others.

        Raises:
            FailedElsewhere: another rank has, and its sentence has been printed.
            InputError: all ranks live, but one did not come to an exchange in time.
        """
        if isinstance(error, FailedElsewhere):  # rank zero is about to say it, unless a launcher ends it now
            self._is_decided.wait(_VERDICT_S)
            return
        if not isinstance(error, InputError):  # it may be due to another rank
            self._limit_s = SILENT_S
            if self._has_news.wait(NEWS_S) and self._is_decided.wait(_VERDICT_S) and self._verdict:
                raise self._verdict from None
        late: InputError | None = None
        if re.search("timed out waiting", str(error), re.IGNORECASE):
            late = InputError(
                f"the ranks waited for one that lives, but did not come to an exchange {self._position()} "
                "within --ddp.timeout_minutes; see what it does: reading data, compiling"
            )
        self._own = one_line(describe_error(late or error), _MOST_LETTERS)
        self._is_decided.wait(_VERDICT_S)
        if self.rank and isinstance(late or error, InputError) and self._verdict:
            raise self._verdict from None
        if late:
            raise late from error

    def close(self) -> None:
        """Part from the other ranks, which may still be at work."""
        self._closing.set()
        self._thread.join(_VERDICT_S)
        self._messages.close()

    def _work(self) -> None:
        beat_s, mark = 0.0, time.monotonic()
        while not self._closing.wait(_TICK_S):
            now = time.monotonic()
            passed_s, mark = min(now - mark, 2 * _TICK_S), now  # while this rank is stopped nobody is silent
            beat_s -= passed_s
            if self._own and self.rank == 0:
                self._note(0, self._own)
            elif beat_s <= 0 or self._own:
                self._send({"pid": os.getpid(), "failure": self._own})
                beat_s = BEAT_S
            for other, peer in self._peers.items():
                self._listen(other, peer, passed_s)
            if self._has_news.is_set():
                self._decide()
                return
        wait(self._send({"bye": True}, waits=False), _FAREWELL_S)

    def _send(self, message: dict[str, Any], waits: bool = True) -> list[Future[Any]]:
        """Send a message to all ranks that are here, or only to those that have taken the one before."""
        here = [(other, peer) for other, peer in self._peers.items() if not peer.has_left]
        for other, peer in here:
            if not waits or peer.outgoing is None or peer.outgoing.done():
                peer.outgoing = self._messages.send(message, other)
        return [peer.outgoing for _, peer in here if peer.outgoing]

    def _listen(self, other: int, peer: _Peer, passed_s: float) -> None:
        """Take what has come from a rank, or count its silence."""
        if peer.has_left:
            if self._limit_s <= SILENT_S:  # this process has an error
                self._note(other, f"has ended, {self._position()}; see its log")
        elif not peer.incoming.done():
            self._count_silence(other, peer, passed_s)
        elif peer.incoming.exception():
            peer.has_left = True
            self._note(other, self._death())
        else:
            message = peer.incoming.result()
            if peer.silent_s >= SILENT_S:
                _print(f"{name_ranks([other], self._places)} answers again after {duration(peer.silent_s)}")
            peer.silent_s, peer.has_left = 0.0, "bye" in message
            if "pid" in message:
                peer.pid = message["pid"]
                self._places[other] = f"{self._hosts[other]} (pid {peer.pid})"
            if failure := message.get("failure"):
                self._note(other, failure)
            if not peer.has_left:
                peer.incoming = self._messages.expect(other)

    def _count_silence(self, other: int, peer: _Peer, passed_s: float) -> None:
        before, peer.silent_s = peer.silent_s, peer.silent_s + passed_s
        becomes_silent = before < SILENT_S <= peer.silent_s
        is_here = self._hosts[other] == socket.gethostname()
        if becomes_silent and peer.pid and is_here and not is_alive(peer.pid):
            # Its loader workers, which live, hold its connections open.
            self._note(other, self._death())
        elif becomes_silent and self.rank < 2:
            since = time.strftime("%H:%M:%S", time.localtime(time.time() - peer.silent_s))
            _print(
                f"{name_ranks([other], self._places)} has not answered since {since} ({duration(SILENT_S)}): "
                "it is stopped, or its host or the network hangs; the others wait, and end after "
                f"{duration(self._limit_s)}"
            )
        if peer.silent_s >= self._limit_s:
            silence = f"has not answered for {duration(peer.silent_s)}, {self._position()}"
            self._note(other, f"{silence} (see --ddp.timeout_minutes){_advice()}")

    def _death(self) -> str:
        return f"was killed or died {self._position()}; see its log, and dmesg if memory ran out{_advice()}"

    def _note(self, other: int, failure: str) -> None:
        self._failures.setdefault(other, failure)
        self._has_news.set()

    def _decide(self) -> None:
        """Say what has happened, once for all ranks, and have this process end."""
        end_soon(FORCE_S)
        if self.rank == 0:
            self._pronounce()
        elif self._peers[0].has_left or self._peers[0].silent_s >= self._limit_s:
            sentence = describe_failures(self._failures, self._places, len(self._places))
            if not isinstance(say_on_host(sentence, "rank 0"), FailedElsewhere):
                _print(f"error: {sentence}")
            self._verdict = FailedElsewhere(sentence)
        else:
            self._verdict = FailedElsewhere(self._failures[0])  # which rank zero has printed
        self._is_decided.set()

    def _pronounce(self) -> None:
        """Say on rank zero what has happened, and tell the others."""
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:  # a host that dies takes several ranks with it
            time.sleep(_TICK_S / 5)
            for other, peer in self._peers.items():
                self._listen(other, peer, 0.0)
        sentence = one_line(describe_failures(self._failures, self._places, len(self._places)), _MOST_LETTERS)
        if 0 not in self._failures:  # which its main thread prints
            _print(f"error: {sentence}")
        wait(self._send({"failure": sentence}, waits=False), GRACE_S)
        self._verdict = FailedElsewhere(sentence)


def _advice() -> str:
    remedy = "resume with --ckpt_path last" if training_has_begun() else "start it again"
    return f"; the run ends on all ranks, {remedy}"


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
