"""All processes of a run in one place before any of them trains: they agree, or they all end.

Rank zero serves the store that the process group is going to use and writes into it where its door
is; each of the others connects there, and the connection lasts until training begins. What any of
them finds wrong goes to rank zero, which tells everybody and says it once.
"""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch.distributed import TCPStore

from ..errors import InputError
from .channel import SILENCE_S, Channel, wait_for_any
from .comparison import compare_facts
from .facts import Facts
from .failure import FailedElsewhere, describe_failures, name_ranks, say_on_host

Judgement = tuple[str, Any]
"""What is wrong (empty: nothing), and what to tell all ranks."""
T = TypeVar("T")

GRACE_S = 2.0
"""After one rank has failed, how long rank zero waits for what the others have to say, in s."""
FAREWELL_S = 10.0
"""How long the others wait at most, in s, until rank zero has said what is wrong and is gone."""

_kept: list[Any] = []
"""What must outlive a failure: the others see by their connections when this process has ended."""


@dataclass
class Rendezvous:
    """The processes of a run, each behind its connection; made by ``join`` or :func:`alone`.

    All ranks call the same methods in the same order.
    """

    rank: int
    world_size: int
    hosts: dict[int, str]
    """Rank to the name of its host."""
    token: str = ""
    """Names this attempt of the run: a restart has another."""
    channels: dict[int, Channel] = field(default_factory=dict)
    """On rank zero the others; on the others rank zero."""
    store: TCPStore | None = None
    """Kept open, because the process group shares its server."""

    def share(self, stage: str, work: Callable[[], T]) -> T:
        """Do something on every rank; it counts as done when all have done it.

        Nobody waits in vain: a rank that fails or dies ends all of them. There is no limit of time
        for one that works.

        Args:
            stage: what is done, to continue "while …": ``reading the data``.
            work: on this rank.

        Returns:
            What the work returned here.

        Raises:
            InputError: On rank zero: some rank failed; names it. On the others: rank zero died.
            FailedElsewhere: On the others, when rank zero says it.
            Exception: On rank zero, what its own work raised unless that was an ``InputError``.
        """
        return self._run(stage, work, tell=False)[0]

    def decide(self, stage: str, work: Callable[[], T]) -> T:
        """Let rank zero alone do something, and give what it returns to every rank.

        Args:
            stage: as for :meth:`share`.
            work: for rank zero; returns what JSON can hold.

        Returns:
            What the work returned on rank zero: there the object itself, elsewhere a copy by JSON.

        Raises:
            Exception: As :meth:`share`.
        """
        if self.rank == 0:
            return self._run(stage, work, tell=True)[0]
        told: T = self._run(stage, lambda: None, tell=True)[1]
        return told

    def _run(self, stage: str, work: Callable[[], T], tell: bool) -> tuple[T, Any]:
        """What the work returned here and, if that is to be told, what it returned on rank zero."""
        if self.world_size == 1:
            return work(), None
        results: list[T] = []
        error: Exception | None = None
        try:
            results.append(work())
        except Exception as raised:
            error = raised
        try:
            result = results[0] if tell and results else None
            failure = None if error is None else _one_line(error)
            told = self._agree(stage, result, failure, lambda reports: ("", reports[0]))
        except InputError as verdict:
            if error is not None and not isinstance(error, InputError) and self.rank == 0:
                raise error from None
            raise verdict from error
        return results[0], told

    def compare(self, facts: Facts, stage: str = "comparing the ranks") -> list[str]:
        """Hold what each rank found about itself against what rank zero found.

        Args:
            facts: of this rank.
            stage: as for :meth:`share`.

        Returns:
            On rank zero one sentence for each difference that only deserves a warning; elsewhere none.

        Raises:
            InputError: On rank zero: a difference that matters, or something is wrong on a rank.
            FailedElsewhere: On the others, when rank zero says it.
        """
        own = "; ".join(facts.problems) or None
        warnings = self._agree(stage, facts.values, own, lambda values: compare_facts(values, self.hosts))
        return warnings if self.rank == 0 else []

    def close(self) -> None:
        """Let go of the others and of the store. After the process group is made: it shares the server."""
        for channel in self.channels.values():
            channel.close()
        self.channels, self.store = {}, None

    def _agree(
        self, stage: str, contribution: Any, failure: str | None, judge: Callable[[dict[int, Any]], Judgement]
    ) -> Any:
        """One round: every rank reports, rank zero judges, every rank obeys.

        Args:
            stage: the same on all ranks.
            contribution: of this rank, for the judge.
            failure: what is wrong on this rank.
            judge: contributions by rank to what is wrong with them (empty: nothing), and what to tell all.

        Returns:
            What is told.
        """
        report = {"stage": stage, "contribution": contribution, "failure": failure}
        if self.rank:
            return self._obey(stage, report)
        reports, ended = self._collect(report)
        failures = {rank: told["failure"] for rank, told in reports.items() if told["failure"]}
        failures |= {rank: f"it ended without a word while {stage}; see its log" for rank in ended}
        for rank, told in reports.items():
            if told["stage"] != stage:
                astray = f"it is {told['stage']} while rank 0 is {stage}"
                failures[rank] = f"{astray}; start all with the same options"
        told_all = None
        if failures:
            sentence = describe_failures(failures, self.hosts, self.world_size)
        else:
            sentence, told_all = judge({rank: told["contribution"] for rank, told in reports.items()})
        self.announce({"failure": sentence, "told": told_all})
        if sentence:
            raise self.ending(InputError(sentence))
        return told_all

    def announce(self, message: Any) -> None:
        """Send a message to everybody at the other end."""
        for channel in self.channels.values():
            channel.send(message)

    def ending(self, error: InputError) -> InputError:
        """The error, with which this process must end: until then its connections are kept."""
        _kept.append(self)
        return error

    def _collect(self, own: dict[str, Any]) -> tuple[dict[int, dict[str, Any]], set[int]]:
        """The reports of all ranks and those that are gone; once one has failed, of those at hand."""
        reports, ended = {0: own}, set[int]()
        rank_of = {channel: rank for rank, channel in self.channels.items()}
        deadline = None
        while len(reports) + len(ended) < self.world_size:
            if deadline is None and (ended or any(told["failure"] for told in reports.values())):
                deadline = time.monotonic() + GRACE_S
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            awaited = [c for c, rank in rank_of.items() if rank not in reports and rank not in ended]
            for channel in wait_for_any(awaited, left):
                try:
                    reports[rank_of[channel]] = channel.receive(SILENCE_S)
                except OSError:
                    ended.add(rank_of[channel])
        return reports, ended

    def _obey(self, stage: str, report: dict[str, Any]) -> Any:
        """Report to rank zero and do as it says."""
        self.channels[0].send(report)
        return self.heed(stage, self.channels[0], None)["told"]

    def heed(self, stage: str, channel: Channel, timeout_s: float | None) -> dict[str, Any]:
        """What rank zero says, unless it says that the run ends.

        Raises:
            InputError: Rank zero died, or did not answer in time.
            FailedElsewhere: It says what is wrong.
        """
        try:
            answer: dict[str, Any] = channel.receive(timeout_s)
        except OSError as error:
            what = "did not answer" if isinstance(error, TimeoutError) else "ended without a word"
            where, me = name_ranks([0], self.hosts), name_ranks([self.rank], self.hosts)
            sentence = f"{where} {what} while {stage}, as {me} saw; see its log"
            raise self.ending(say_on_host(sentence, f"rank 0 {self.token}")) from None
        if answer["failure"]:
            verdict = FailedElsewhere(answer["failure"])
            channel.wait_for_end(FAREWELL_S)
            raise self.ending(verdict)
        return answer


def alone() -> Rendezvous:
    """The rendezvous of a run of one process."""
    return Rendezvous(0, 1, {0: socket.gethostname()})


def _one_line(error: Exception) -> str:
    """What went wrong; of what is no wrong input also where in the code."""
    text = " ".join(str(error).strip().splitlines()[-1:])
    if isinstance(error, InputError):  # one from a loader worker has that process's traceback in front
        return text.removeprefix("yolo_lightning.errors.InputError: ")
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(frame.filename).name}:{frame.lineno})"
