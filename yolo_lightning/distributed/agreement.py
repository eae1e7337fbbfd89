"""What any rank asks for, all ranks do at the same batch, and nobody waits to find out."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from .allreduce import end_soon
from .failure import name_ranks, say_on_host
from .reach import bounded

OPEN_S = 60.0
"""How long the group over which the flags go may take to connect all ranks, in s."""


class Agreement:
    """Flags that all ranks see alike: raised on one, raised on all.

    One process sees its own flags at once. With more, the flags of a batch are sent over a gloo
    group of their own while the next batch is computed, and read at its end: the device's stream is
    not touched and the host does not wait. So everybody learns one batch later, at the same batch.

    Every rank has to make the same calls in the same order.

    Args:
        flags: How many there are.

    Raises:
        InputError: The ranks cannot be connected; the process then ends, whatever else happens.
        FailedElsewhere: Another process of this host says so.
    """

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self._group: Any = None
        self._is_alone = not (distributed.is_available() and distributed.is_initialized())
        if not self._is_alone:
            self._is_alone = distributed.get_world_size() == 1
        if not self._is_alone:
            self._group = _open_group()
        self._raised = torch.zeros(flags, dtype=torch.int32)
        self._under_way: distributed.Work | None = None

    def exchange(self, flags: Sequence[bool]) -> list[bool]:
        """Send this rank's flags, and return what all of them raised in the call before."""
        if self._is_alone:
            return list(flags)
        answer = self._take()
        self._send(flags)
        return answer

    def settle(self, flags: Sequence[bool]) -> list[bool]:
        """What all ranks raise now or raised in the call before; waits for all of them."""
        if self._is_alone:
            return list(flags)
        before = self._take()
        self._send(flags)
        return [a or b for a, b in zip(before, self._take(), strict=True)]

    def least(self, count: int) -> int:
        """The smallest count of all ranks; waits for all of them."""
        if self._is_alone:
            return count
        smallest = torch.tensor(count)
        distributed.all_reduce(smallest, distributed.ReduceOp.MIN, group=self._group)
        return int(smallest)

    def _take(self) -> list[bool]:
        if self._under_way is None:
            return [False] * self.flags
        self._under_way.wait()
        self._under_way = None
        return [bool(flag) for flag in self._raised.tolist()]

    def _send(self, flags: Sequence[bool]) -> None:
        self._raised = torch.tensor(list(flags), dtype=torch.int32)
        maximum = distributed.ReduceOp.MAX
        self._under_way = distributed.all_reduce(self._raised, maximum, group=self._group, async_op=True)


def _open_group() -> Any:
    """All ranks as a group of gloo, which may have to go another way than NCCL and has proved none yet.

    Raises:
        InputError: It does not connect in time; says what to do.
        FailedElsewhere: Another process of this host says so.
    """
    try:
        return bounded(lambda: distributed.new_group(backend="gloo", timeout=_default_timeout()), OPEN_S)
    except (RuntimeError, TimeoutError) as error:
        reason = " ".join(str(error).split())[:300]
    end_soon()  # the thread that still connects must not hold the process
    rank = distributed.get_rank()
    sentence = (
        f"{name_ranks([rank], {rank: socket.gethostname()})}: gloo, by which the ranks agree on stops, "
        f"does not connect them within {OPEN_S:.0f} s ({reason}); set GLOO_SOCKET_IFNAME to the interface "
        "that reaches the other nodes, one plain name such as eth0, and see that no firewall is between them"
    )
    raise say_on_host(sentence, "agreement by gloo")


def _default_timeout() -> timedelta | None:
    """How long the default group waits, ``ddp.timeout_minutes``; None, gloo's 30 min, if torch hides it."""
    device = torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
    with suppress(Exception):  # these are no public names, and without them training works, too
        group = distributed.distributed_c10d._get_default_group()
        timeout: timedelta = group._get_backend(device).options._timeout
        return timeout
    return None
