"""Requests of one rank that all ranks follow at the same batch, without waiting for each other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
from torch import distributed


class Agreement:
    """Flags that all ranks see alike: a flag raised on one rank is raised on all.

    A single process sees its own flags at once. Several processes send the flags of a batch over a gloo group
    of their own while they compute the next batch, and read them at its end: neither the device nor the
    host waits, and all ranks learn of a flag at the same batch, one batch late.

    All ranks make the same calls in the same order.

    Args:
        flags: How many there are.
    """

    def __init__(self, flags: int) -> None:
        self._group: Any = None
        """Of gloo; None for a single process."""
        is_initialized = distributed.is_available() and distributed.is_initialized()
        if is_initialized and distributed.get_world_size() > 1:
            self._group = distributed.new_group(backend="gloo", timeout=default_timeout())
        self._raised = torch.zeros(flags, dtype=torch.int32)
        self._under_way: distributed.Work | None = None

    def exchange(self, flags: Sequence[bool]) -> list[bool]:
        """Send this rank's flags, and return those that any rank raised in the call before."""
        if self._group is None:
            return list(flags)
        answer = self._take()
        self._raised = torch.tensor(list(flags), dtype=torch.int32)
        maximum = distributed.ReduceOp.MAX
        self._under_way = distributed.all_reduce(self._raised, maximum, group=self._group, async_op=True)
        return answer

    def settle(self, flags: Sequence[bool]) -> list[bool]:
        """Wait for all ranks, and return the flags that any rank raises now or raised in the call before."""
        return [a or b for a, b in zip(self.exchange(flags), self._take(), strict=True)]

    def least(self, count: int) -> int:
        """Wait for all ranks, and return the smallest count."""
        if self._group is None:
            return count
        smallest = torch.tensor(count)
        distributed.all_reduce(smallest, distributed.ReduceOp.MIN, group=self._group)
        return int(smallest)

    def _take(self) -> list[bool]:
        """Wait for the flags under way, and return them once; none is raised if nothing is under way."""
        if self._under_way is not None:
            self._under_way.wait()
        raised, self._under_way = self._raised.tolist(), None
        self._raised = torch.zeros_like(self._raised)
        return [bool(flag) for flag in raised]


def default_timeout() -> timedelta | None:
    """Read how long the default group waits, ``ddp.timeout_minutes``; None (30 min) if torch hides it."""
    device = torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
    with suppress(Exception):  # these names are private, and training works without them
        group = distributed.distributed_c10d._get_default_group()
        timeout: timedelta = group._get_backend(device).options._timeout
        return timeout
    return None
