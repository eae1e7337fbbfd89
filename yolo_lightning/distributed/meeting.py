"""All processes of a run before any of them trains: they agree, or they all end.

Rank zero learns what is wrong on any rank, tells all of them and says it once.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed.constants import default_pg_timeout

from ..errors import InputError
from ..system.lightning_internals import leave_children_alone
from .agreement import default_timeout
from .facts import Facts, compare_facts
from .failure import (
    FailedElsewhere,
    bounded,
    describe_error,
    describe_failures,
    end_soon,
    name_ranks,
    say_on_host,
)
from .messages import PATIENCE, Messages, connect
from .watch import GRACE_S, RankWatch

Report = dict[str, Any]
"""Result of a rank's work, or the failure as a sentence."""
Judge = Callable[[dict[int, Any]], tuple[str, Any]]
"""From the results by rank to a sentence on what is wrong, empty if nothing is, and the answer for all."""
T = TypeVar("T")

LONG_S = PATIENCE.total_seconds()
"""Limit of a stage unless one is given, in s."""
FAREWELL_S = 10.0
"""Longest wait of the others, in s, until rank zero has reported a failure and ended."""
ALL_REDUCE_S = 60.0
"""Default limit for the ranks to reach the first all-reduce, and again for the sum, in s."""


@dataclass
class Meeting:
    """The processes of a run; made by ``join``, ``meet_in_process_group`` or :func:`alone`.

    All ranks call the same methods in the same order, each with a stage that continues "while …": ``reading
    the data``. A rank may work as long as it likes, unless a limit is given; when it fails or dies, all ranks
    end. Then rank zero raises ``InputError`` with the rank and the reason (or what its own work raised, if
    that was no ``InputError``), and the others ``FailedElsewhere``. When rank zero dies, one process of each
    host raises ``InputError``.
    """

    rank: int
    world_size: int
    hosts: dict[int, str]
    """Rank to the name of its host."""
    messages: Messages | None = None
    """None in a run of one process."""
    store: dist.TCPStore | None = None
    """Kept open until the process group exists, which shares its server."""

    def share(self, stage: str, work: Callable[[], T], timeout_s: float = LONG_S) -> T:
        """Do something on every rank; return this rank's result when all have done it in time."""
        results: list[T] = []
        self._stage(stage, lambda: results.append(work()), lambda _: ("", None), timeout_s)
        return results[0]

    def decide(self, stage: str, work: Callable[[], T]) -> T:
        """Let rank zero alone do something, and give its result, which JSON can hold, to every rank."""
        answer: T = self._stage(stage, lambda: None if self.rank else work(), lambda found: ("", found[0]))
        return answer

    def compare(self, facts: Facts, stage: str = "comparing the ranks") -> list[str]:
        """Compare the facts of each rank with those of rank zero.

        Returns:
            On rank zero one sentence for each difference that only deserves a warning; elsewhere none.
        """

        def values() -> dict[str, dict[str, str]]:
            if facts.problems:
                raise InputError("; ".join(facts.problems))
            return facts.values

        warnings = self._stage(stage, values, lambda found: compare_facts(found, self.hosts))
        return warnings if self.rank == 0 else []

    def close(self) -> None:
        """Disconnect from the other ranks and the store, once the process group exists."""
        if self.messages is not None:
            self.messages.close()
        self.messages, self.store = None, None

    def _stage(self, stage: str, work: Callable[[], Any], judge: Judge, timeout_s: float = LONG_S) -> Any:
        """Work on every rank, report the result to rank zero, and return the answer of its judge."""
        if self.messages is None:
            return judge({0: work()})[1]
        # A verdict that is expected already arrives also while this rank works and rank zero ends.
        verdict = self.messages.expect(0) if self.rank else None
        result, error = None, None
        try:
            result = work()
        except Exception as raised:
            error = raised
        report = {"result": result, "failure": error and describe_error(error)}
        try:
            if verdict is not None:
                return self._obey(self.messages, stage, report, verdict, timeout_s)
            return self._pronounce(self.messages, stage, report, judge, timeout_s)
        except InputError as failure:
            if error is not None and not isinstance(error, InputError) and self.rank == 0:
                raise error from None
            raise failure from error

    def _pronounce(self, messages: Messages, stage: str, own: Report, judge: Judge, timeout_s: float) -> Any:
        """Collect the reports on rank zero, judge them, and tell all ranks."""
        reports, ended = self._collect(messages, own, timeout_s)
        failures = {rank: report["failure"] for rank, report in reports.items() if report["failure"]}
        failures |= dict.fromkeys(ended, f"exited without an error message while {stage}; see its log")
        if not failures:
            late = f"does not answer within {timeout_s:.0f} s while the others are {stage}; see its log"
            failures = dict.fromkeys(set(range(self.world_size)) - reports.keys(), late)
        answer = None
        if failures:
            sentence = describe_failures(failures, self.hosts, self.world_size)
        else:
            sentence, answer = judge({rank: report["result"] for rank, report in reports.items()})
        told = {"failure": sentence, "answer": answer}
        sent = [messages.send(told, rank) for rank in range(1, self.world_size) if rank not in ended]
        wait(sent, GRACE_S if sentence else None)
        if sentence:
            raise InputError(sentence)
        return answer

    def _collect(
        self, messages: Messages, own: Report, timeout_s: float
    ) -> tuple[dict[int, Report], set[int]]:
        """Receive the reports of all ranks and note which ranks ended; after a failure, those at hand."""
        rank_of = {messages.expect(rank): rank for rank in range(1, self.world_size)}
        reports, ended, awaited = {0: own}, set[int](), set(rank_of)
        deadline, has_failed = time.monotonic() + timeout_s, False
        while awaited:
            if not has_failed and (ended or any(report["failure"] for report in reports.values())):
                deadline, has_failed = min(deadline, time.monotonic() + GRACE_S), True
            left = deadline - time.monotonic()
            if left <= 0:
                break
            arrived, awaited = wait(awaited, left, FIRST_COMPLETED)
            for future in arrived:
                if future.exception():
                    ended.add(rank_of[future])
                else:
                    reports[rank_of[future]] = future.result()
        return reports, ended

    def _obey(
        self, messages: Messages, stage: str, report: Report, verdict: Future[Any], timeout_s: float
    ) -> Any:
        """Report to rank zero from another rank, and do as it says."""
        sent = messages.send(report, 0)

        def exchange() -> Any:
            with suppress(RuntimeError):  # rank zero has ended; its verdict may have arrived before
                sent.result()
            return verdict.result()

        try:
            told = bounded(exchange, timeout_s + 2 * GRACE_S)
        except (RuntimeError, TimeoutError) as error:
            what = "did not answer" if isinstance(error, TimeoutError) else "exited without an error message"
            where, me = name_ranks([0], self.hosts), name_ranks([self.rank], self.hosts)
            sentence = f"{where} {what} while {stage}, as {me} saw; see its log"
            raise say_on_host(sentence, f"rank 0 while {stage}") from None
        if told["failure"]:
            failure = FailedElsewhere(told["failure"])
            wait([messages.expect(0)], FAREWELL_S)  # a launcher that sees one process end ends the others
            raise failure
        return told["answer"]


def alone() -> Meeting:
    """Return the meeting of a run of one process."""
    return Meeting(0, 1, {0: socket.gethostname()})


class FirstAllReduce(Callback):
    """Ends the run when a small all-reduce does not return in time, and says which rank is missing.

    It ends the meeting, because the process group exists now. From here on a :class:`RankWatch` watches.
    """

    def __init__(self, meeting: Meeting) -> None:
        self.meeting = meeting
        self._watch: RankWatch | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return
        if self._watch:  # training goes back after a divergence
            return
        if self.meeting.world_size == 1:  # Lightning started the other processes after this one
            self.meeting = meet_in_process_group()
        check_all_reduce(self.meeting, trainer.strategy.root_device)
        limit = default_timeout() or default_pg_timeout

        def position() -> str:
            if stage != "fit":
                return f"in {stage}"
            return f"in epoch {trainer.current_epoch + 1}, batch {trainer.fit_loop.batch_idx + 1}"

        assert self.meeting.messages is not None
        group, hosts = self.meeting.messages.group, self.meeting.hosts
        self._watch = RankWatch(self.meeting.rank, hosts, group, limit.total_seconds(), position)
        leave_children_alone()
        self.meeting.store = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Turn an exception of the block into the failure of the rank that has caused it.

        Raises:
            FailedElsewhere: another rank has caused it, and its sentence has been printed.
            Exception: this rank has, or there is no other; the others are told.
        """
        try:
            yield
        except Exception as error:
            if self._watch:
                self._watch.report(error)
            raise
        finally:
            if self._watch:
                self._watch.close()


def meet_in_process_group() -> Meeting:
    """Meet the other ranks of the default process group."""
    rank, world_size, host = dist.get_rank(), dist.get_world_size(), socket.gethostname()
    me = name_ranks([rank], {rank: host})
    messages = connect(lambda: dist.new_group(backend="gloo", timeout=PATIENCE), me)
    hosts = [""] * world_size
    dist.all_gather_object(hosts, host, group=messages.group)
    return Meeting(rank, world_size, dict(enumerate(hosts)), messages)


def check_all_reduce(meeting: Meeting, device: torch.device, timeout_s: float = ALL_REDUCE_S) -> None:
    """Add up known numbers over all ranks, once the default process group exists.

    No rank starts to reduce before all have come, so that a missing rank leaves nobody in a collective.
    A process in which the check fails ends with status 2, although NCCL or gloo may still wait.

    Args:
        timeout_s: for all to come, and again for the sum, in s.

    Raises:
        InputError: A rank did not come, or the sum is late or wrong.
        FailedElsewhere: Another rank says so.
    """
    try:
        meeting.share("coming to the first all-reduce", lambda: None, timeout_s)
        meeting.share("adding up over all ranks", lambda: _add_up(meeting, device, timeout_s))
    except InputError:
        end_soon()
        raise


def _add_up(meeting: Meeting, device: torch.device, timeout_s: float) -> None:
    def largest_error() -> float:
        values = torch.full((1024,), meeting.rank + 1.0, device=device)
        dist.all_reduce(values)
        return float((values - meeting.world_size * (meeting.world_size + 1) / 2).abs().max())

    try:
        error = bounded(largest_error, timeout_s)
        if not error:
            return
        problem = f"is off by {error:g}"
    except TimeoutError:
        problem = f"did not return within {timeout_s:.0f} s"
    except RuntimeError as failure:
        problem = f"failed: {' '.join(str(failure).split())[:300]}"
    backend = dist.get_backend()
    more = "; NCCL_DEBUG=INFO shows what NCCL does" if backend == "nccl" else ""
    raise InputError(
        f"an all-reduce by {backend} {problem}; look for a firewall between the hosts and for the wrong "
        f"network interface (set {backend.upper()}_SOCKET_IFNAME{more})"
    )
