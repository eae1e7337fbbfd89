"""All processes of a run before any of them trains: they agree, or they all end.

Rank zero learns what is wrong on any rank, tells all of them and says it once.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from torch.distributed import TCPStore

from ..errors import InputError
from .comparison import compare_facts
from .facts import Facts
from .failure import FailedElsewhere, describe_error, describe_failures, name_ranks, say_on_host
from .messages import Messages
from .time_limit import bounded

Verdict = tuple[str, Any]
"""Sentence on what is wrong, empty if nothing is, and the answer for all ranks."""
T = TypeVar("T")

GRACE_S = 2.0
"""After one rank has failed, how long rank zero waits for reports of the others, in s."""
FAREWELL_S = 10.0
"""Longest wait of the others, in s, until rank zero has reported a failure and ended."""


@dataclass
class Meeting:
    """The processes of a run; made by ``join``, ``meet_in_process_group`` or :func:`alone`.

    All ranks call the same methods in the same order. A rank may work as long as it likes, unless a limit is
    given; when it fails or dies, all ranks end. Then rank zero raises ``InputError`` with the rank and the
    reason (or what its own work raised, if that was no ``InputError``), and the others ``FailedElsewhere``.
    When rank zero dies, one process of each host raises ``InputError``.
    """

    rank: int
    world_size: int
    hosts: dict[int, str]
    """Rank to the name of its host."""
    messages: Messages | None = None
    """None in a run of one process."""
    store: TCPStore | None = None
    """Kept open until the process group exists, which shares its server."""

    def share(self, stage: str, work: Callable[[], T], timeout_s: float | None = None) -> T:
        """Do something on every rank; it counts as done when all have done it.

        Args:
            stage: what is done, to continue "while …": ``reading the data``.
            work: on this rank.
            timeout_s: limit for all ranks to come and do it, in s.

        Returns:
            Result of the work on this rank.
        """
        results: list[T] = []
        self._stage(stage, lambda: results.append(work()), _agree, timeout_s)
        return results[0]

    def decide(self, stage: str, work: Callable[[], T]) -> T:
        """Let rank zero alone do something, and give its result to every rank.

        Args:
            stage: as for :meth:`share`.
            work: for rank zero; returns what JSON can hold.
        """
        answer: T = self._stage(
            stage, lambda: None if self.rank else work(), lambda reports: ("", reports[0]), None
        )
        return answer

    def compare(self, facts: Facts, stage: str = "comparing the ranks") -> list[str]:
        """Compare the facts of each rank with those of rank zero.

        Args:
            facts: of this rank.
            stage: as for :meth:`share`.

        Returns:
            On rank zero one sentence for each difference that only deserves a warning; elsewhere none.
        """

        def values() -> dict[str, dict[str, str]]:
            if facts.problems:
                raise InputError("; ".join(facts.problems))
            return facts.values

        warnings = self._stage(stage, values, lambda found: compare_facts(found, self.hosts), None)
        return warnings if self.rank == 0 else []

    def close(self) -> None:
        """Disconnect from the other ranks and the store, once the process group exists."""
        if self.messages is not None:
            self.messages.close()
        self.messages, self.store = None, None

    def _stage(
        self,
        stage: str,
        work: Callable[[], Any],
        judge: Callable[[dict[int, Any]], Verdict],
        timeout_s: float | None,
    ) -> Any:
        """Work on every rank, report to rank zero, and do as it says.

        Args:
            stage: the same on all ranks.
            work: on this rank; returns its report.
            judge: on rank zero; reports by rank to a verdict.
            timeout_s: limit for all reports, in s.

        Returns:
            The answer of the verdict.
        """
        if self.messages is None:
            return judge({0: work()})[1]
        # A verdict that is expected already arrives also while this rank works and rank zero ends.
        verdict = self.messages.expect(0) if self.rank else None
        result, error = None, None
        try:
            result = work()
        except Exception as raised:
            error = raised
        report = {"stage": stage, "result": result, "failure": error and describe_error(error)}
        try:
            if verdict is not None:
                return self._obey(stage, report, verdict.result, timeout_s)
            return self._pronounce(stage, report, judge, timeout_s)
        except InputError as failure:
            if error is not None and not isinstance(error, InputError) and self.rank == 0:
                raise error from None
            raise failure from error

    def _pronounce(
        self,
        stage: str,
        own: dict[str, Any],
        judge: Callable[[dict[int, Any]], Verdict],
        timeout_s: float | None,
    ) -> Any:
        """Collect the reports on rank zero, judge them, and tell all ranks."""
        assert self.messages is not None
        reports, ended = self._collect(own, timeout_s)
        failures = {rank: report["failure"] for rank, report in reports.items() if report["failure"]}
        failures |= {rank: f"exited without an error message while {stage}; see its log" for rank in ended}
        failures |= {
            rank: f"it is {report['stage']} while rank 0 is {stage}; start all with the same options"
            for rank, report in reports.items()
            if report["stage"] != stage
        }
        missing = [rank for rank in range(self.world_size) if rank not in reports and rank not in ended]
        if missing and not failures:
            late = f"does not answer within {timeout_s:.0f} s while the others are {stage}; see its log"
            failures = dict.fromkeys(missing, late)
        answer = None
        if failures:
            sentence = describe_failures(failures, self.hosts, self.world_size)
        else:
            sentence, answer = judge({rank: report["result"] for rank, report in reports.items()})
        told = {"failure": sentence, "answer": answer}
        sent = [self.messages.send(told, rank) for rank in range(1, self.world_size) if rank not in ended]
        wait(sent, GRACE_S if sentence else None)
        if sentence:
            raise InputError(sentence)
        return answer

    def _collect(
        self, own: dict[str, Any], timeout_s: float | None
    ) -> tuple[dict[int, dict[str, Any]], set[int]]:
        """Receive the reports of all ranks and note which ranks ended; after a failure, those at hand."""
        assert self.messages is not None
        rank_of = {self.messages.expect(rank): rank for rank in range(1, self.world_size)}
        reports, ended, awaited = {0: own}, set[int](), set(rank_of)
        limit = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        grace = float("inf")
        while awaited:
            if grace == float("inf") and (ended or any(report["failure"] for report in reports.values())):
                grace = time.monotonic() + GRACE_S
            left = min(limit, grace) - time.monotonic()
            if left <= 0:
                break
            arrived, awaited = wait(awaited, None if left == float("inf") else left, FIRST_COMPLETED)
            for future in arrived:
                if future.exception():
                    ended.add(rank_of[future])
                else:
                    reports[rank_of[future]] = future.result()
        return reports, ended

    def _obey(
        self, stage: str, report: dict[str, Any], verdict: Callable[[], Any], timeout_s: float | None
    ) -> Any:
        """Report to rank zero from another rank, and do as it says."""
        assert self.messages is not None
        sent = self.messages.send(report, 0)

        def exchange() -> Any:
            with suppress(RuntimeError):  # rank zero has ended; its verdict may have arrived before
                sent.result()
            return verdict()

        try:
            told = bounded(exchange, None if timeout_s is None else timeout_s + 2 * GRACE_S)
        except (RuntimeError, TimeoutError) as error:
            what = "did not answer" if isinstance(error, TimeoutError) else "exited without an error message"
            where, me = name_ranks([0], self.hosts), name_ranks([self.rank], self.hosts)
            sentence = f"{where} {what} while {stage}, as {me} saw; see its log"
            raise say_on_host(sentence, f"rank 0 while {stage}") from None
        if told["failure"]:
            failure = FailedElsewhere(told["failure"])
            wait(
                [self.messages.expect(0)], FAREWELL_S
            )  # a launcher that sees one process end ends the others
            raise failure
        return told["answer"]


def alone() -> Meeting:
    """Return the meeting of a run of one process."""
    return Meeting(0, 1, {0: socket.gethostname()})


def _agree(reports: dict[int, Any]) -> Verdict:
    return "", None
