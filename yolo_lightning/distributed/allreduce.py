"""One small all-reduce before the first step: it returns in time, or the run ends and says who hangs."""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from ..errors import InputError
from .failure import FailedElsewhere, name_ranks, note_failing, say_on_host
from .reach import ANSWER_S, begin, bounded
from .rendezvous import Rendezvous

T = TypeVar("T")

ALL_REDUCE_S = 60.0
"""How long the ranks may take to come to the check, and again to reduce, by default, in s."""
LEAVE_S = 10.0
"""How long a process that has failed may take to end by itself, in s."""
_SPREAD_S = 3.0
"""How long news may take from one rank to all others, in s."""
_ELEMENTS = 1024

_failed = threading.Event()


def check_all_reduce(
    device: torch.device, timeout_s: float = ALL_REDUCE_S, rendezvous: Rendezvous | None = None
) -> float | None:
    """Add up known numbers over all ranks, once the default process group exists.

    Nobody starts to reduce before all have come, so that a rank that is missing leaves nobody in a
    collective. A process in which the check fails ends with status 2 after :data:`LEAVE_S` at the
    latest: what NCCL or gloo wait for then cannot hold it.

    Args:
        device: of this rank.
        timeout_s: for all to come, and again for the sum, in s.
        rendezvous: where the ranks met, if they did: knows the hosts of those that are missing.

    Returns:
        Seconds that the sum took, connecting included; None where there is no process group or only
        one process.

    Raises:
        InputError: Somebody did not come, or the sum is late or wrong.
        FailedElsewhere: Another rank says so.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    board = _Board(rendezvous)
    try:
        board.gather(timeout_s)
        started = time.monotonic()
        _reduce(board, device, timeout_s)
        return time.monotonic() - started
    except FailedElsewhere:
        end_soon()
        time.sleep(_SPREAD_S + 2)  # a launcher that sees one process end ends the others, the speaker too
        raise
    except InputError:
        end_soon()
        raise
    except (RuntimeError, TimeoutError) as error:  # of the store, which lives in rank zero or the launcher
        end_soon()
        reason = str(error).splitlines()[0]
        sentence = f"{name_ranks([0], board.hosts)} ended before the all-reduce ({reason}); see its log"
        raise say_on_host(sentence, f"store {board.prefix}") from None


class _Board:
    """What the ranks write into the store of the process group, while they may be in a collective."""

    def __init__(self, rendezvous: Rendezvous | None) -> None:
        self.hosts = dict(rendezvous.hosts) if rendezvous is not None else {}
        self.prefix = f"yolo_lightning/all_reduce/{rendezvous.token if rendezvous is not None else ''}"
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self._store = dist.distributed_c10d._get_default_store()
        self._verdict, self._go = f"{self.prefix}/verdict", f"{self.prefix}/go"
        self._here = [f"{self.prefix}/here/{rank}" for rank in range(self.world_size)]

    def gather(self, timeout_s: float) -> None:
        """Wait for all; rank zero says when they are here."""
        self.hosts.setdefault(self.rank, socket.gethostname())
        self._ask(lambda: self._store.set(self._here[self.rank], self.hosts[self.rank]))
        if self.rank == 0 and self.wait(lambda: self._has(*self._here), timeout_s):
            self._ask(lambda: self._store.set(self._go, "1"))
        if self.wait(lambda: self._has(self._go), timeout_s if self.rank else 0):
            names = self._ask(lambda: self._store.multi_get(self._here))
            self.hosts = {rank: name.decode() for rank, name in enumerate(names)}
            return
        missing = [rank for rank, key in enumerate(self._here) if not self._has(key)] or [0]
        raise self.say(
            f"{name_ranks(missing, self.hosts)} did not come to the all-reduce within {timeout_s:.0f} s but "
            f"the other {self.world_size - len(missing)} did; see the log of what did not"
        )

    def wait(self, ready: Callable[[], bool], timeout_s: float) -> bool:
        """Whether something became true in time.

        Raises:
            FailedElsewhere: A rank has said meanwhile what is wrong.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self._has(self._verdict):
                raise FailedElsewhere(self._ask(lambda: self._store.get(self._verdict)).decode())
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def say(self, sentence: str) -> InputError:
        """The exception for what is wrong: loud in the rank that is first, if possible rank zero."""
        if self.rank:
            time.sleep(_SPREAD_S / 2)
        if self._ask(lambda: self._store.add(f"{self.prefix}/said", 1)) > 1:
            return FailedElsewhere(sentence)
        self._ask(lambda: self._store.set(self._verdict, sentence))
        time.sleep(_SPREAD_S)  # the store may go with this process
        return InputError(sentence)

    def _has(self, *keys: str) -> bool:
        return bool(self._ask(lambda: self._store.check(list(keys))))

    @staticmethod
    def _ask(question: Callable[[], T]) -> T:
        return bounded(question, ANSWER_S)


def _reduce(board: _Board, device: torch.device, timeout_s: float) -> None:
    """Reduce; raise what is wrong with it."""
    world_size, backend = board.world_size, dist.get_backend()
    expected = world_size * (world_size + 1) / 2
    given_up = threading.Event()

    def add_up() -> float:
        """Off by how much. The first call connects, and may block in that: NCCL takes no time limit."""
        values = torch.full((_ELEMENTS,), board.rank + 1.0, device=device)
        work = dist.all_reduce(values, async_op=True)
        assert work is not None
        while not work.is_completed():
            if given_up.wait(0.002):
                return 0.0
        work.wait()  # raises what went wrong
        return float((values - expected).abs().max())

    what = f"an all-reduce of {name_ranks(range(world_size), board.hosts)} by {backend}"
    variable = "NCCL_SOCKET_IFNAME" if backend == "nccl" else "GLOO_SOCKET_IFNAME"
    advice = (
        f"look for a firewall between the hosts and for the wrong network interface (set {variable}"
        f"{'; NCCL_DEBUG=INFO shows what NCCL does' if backend == 'nccl' else ''})"
    )
    result = begin(add_up)
    try:
        if not board.wait(result.done, timeout_s):
            raise board.say(f"{what} did not return within {timeout_s:.0f} s; {advice}")
        off = result.result()
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise board.say(f"{what} failed on rank {board.rank}: {reason}; {advice}") from None
    finally:
        given_up.set()
    if off:
        raise board.say(f"{what} is off by {off:g} on rank {board.rank}; {advice}")


def end_soon() -> None:
    """See to it that this process ends with status 2: first by itself, at last by force."""
    note_failing()
    _failed.set()

    def force() -> None:
        time.sleep(LEAVE_S)
        _leave()

    threading.Thread(target=force, daemon=True, name="preflight-end").start()


def _leave() -> None:
    if _failed.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)


# Registered before anything that a run registers, it is called last: caches have been removed, and the
# destructors of a process group that hangs are never reached.
atexit.register(_leave)


class FirstAllReduce(Callback):
    """Ends the run when a small all-reduce does not return in time, and says which rank is missing.

    Args:
        meeting: Where the ranks have met; closed here, because the process group is there now.
        timeout_s: For all to come, and again for the sum, in s.
    """

    def __init__(self, meeting: Rendezvous, timeout_s: float) -> None:
        self.meeting = meeting
        self.timeout_s = timeout_s

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_all_reduce(trainer.strategy.root_device, self.timeout_s, self.meeting)
        self.meeting.close()
