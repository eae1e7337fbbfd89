"""Exchange between the ranks of a DDP run, besides gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def rank_mean(value: Tensor) -> Tensor:
    """Mean over all ranks of a tensor without gradient."""
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()


def share_buffers(model: nn.Module | None) -> None:
    """Give all ranks the buffers of rank 0, and stop DDP from doing so during an evaluation.

    DDP copies the running statistics of the batch norms before each forward pass. In an evaluation that
    would hang, because the ranks have unequal numbers of batches; so they are copied once.
    """
    if isinstance(model, DistributedDataParallel):
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
        model.require_forward_param_sync = False


def resume_sharing(model: nn.Module | None) -> None:
    """Undo :func:`share_buffers` for training."""
    if isinstance(model, DistributedDataParallel):
        model.require_forward_param_sync = True
