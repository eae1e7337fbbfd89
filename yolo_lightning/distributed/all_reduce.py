"""One small all-reduce before the first step: it returns in time, or the run ends with what to look for."""

from __future__ import annotations

import socket

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from ..errors import InputError
from .failure import end_soon
from .meeting import Meeting
from .messages import PATIENCE, connect
from .time_limit import bounded

ALL_REDUCE_S = 60.0
"""Default limit for the ranks to reach the check, and again for the sum, in s."""
_ELEMENTS = 1024


class FirstAllReduce(Callback):
    """Ends the run when a small all-reduce does not return in time, and says which rank is missing.

    Args:
        meeting: Where the ranks met; closed here, because the process group exists now.
        timeout_s: For all to come, and again for the sum, in s.
    """

    def __init__(self, meeting: Meeting, timeout_s: float) -> None:
        self.meeting = meeting
        self.timeout_s = timeout_s

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return
        if self.meeting.world_size == 1:  # Lightning started the other processes after this one
            self.meeting = meet_in_process_group()
        check_all_reduce(self.meeting, trainer.strategy.root_device, self.timeout_s)
        self.meeting.close()


def meet_in_process_group() -> Meeting:
    """Meet the other ranks of the default process group."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    messages = connect(lambda: dist.new_group(backend="gloo", timeout=PATIENCE), rank)
    hosts = [""] * world_size
    dist.all_gather_object(hosts, socket.gethostname(), group=messages.group)
    return Meeting(rank, world_size, dict(enumerate(hosts)), messages)


def check_all_reduce(meeting: Meeting, device: torch.device, timeout_s: float = ALL_REDUCE_S) -> None:
    """Add up known numbers over all ranks, once the default process group exists.

    No rank starts to reduce before all have come, so that a missing rank leaves nobody in a collective.
    A process in which the check fails ends with status 2, although NCCL or gloo may still wait.

    Args:
        meeting: of all ranks.
        device: of this rank.
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
    """Reduce; raise what is wrong with it."""
    backend = dist.get_backend()
    expected = meeting.world_size * (meeting.world_size + 1) / 2

    def largest_error() -> float:
        values = torch.full((_ELEMENTS,), meeting.rank + 1.0, device=device)
        dist.all_reduce(values)
        return float((values - expected).abs().max())

    try:
        error = bounded(largest_error, timeout_s)
        problem = f"is off by {error:g}" if error else ""
    except TimeoutError:
        problem = f"did not return within {timeout_s:.0f} s"
    except RuntimeError as failure:
        problem = f"failed: {' '.join(str(failure).split())[:300]}"
    if problem:
        variable = "NCCL_SOCKET_IFNAME" if backend == "nccl" else "GLOO_SOCKET_IFNAME"
        raise InputError(
            f"an all-reduce by {backend} {problem}; look for a firewall between the hosts and for the wrong "
            f"network interface (set {variable}"
            f"{'; NCCL_DEBUG=INFO shows what NCCL does' if backend == 'nccl' else ''})"
        )
