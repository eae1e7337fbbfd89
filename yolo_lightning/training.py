"""The training step without Lightning: from images to losses, and how gradients add up."""

from __future__ import annotations

import torch
from torch import Tensor

from .losses import AnchorFreeLoss, AnchorLoss
from .model.network import DetectionNetwork


def training_losses(
    network: DetectionNetwork,
    criterion: AnchorLoss | AnchorFreeLoss,
    images: Tensor,
    targets: Tensor,
    mask: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Network and loss as one function, so that they compile to one graph.

    Args:
        network: the network.
        criterion: its loss.
        images: float (B, 3, S, S), 0..1.
        targets: float32 (B, N, 5): class, x1, y1, x2, y2 in px.
        mask: bool (B, N), which rows of ``targets`` are labels.

    Returns:
        The scalar mean loss and its named, detached parts.
    """
    maps = network(images)
    with torch.autocast(images.device.type, enabled=False):
        return criterion(maps, targets, mask)


def gradient_scale(batch_size: int, world_size: int) -> int:
    """Factor from the mean loss of a rank's batch to the loss whose gradient is summed.

    Classic YOLOv5 sums over images, so that the gradient of a step grows with the images in it up
    to the nominal batch size; DDP averages over ranks, which the second factor undoes.
    """
    return batch_size * world_size


def rank_mean(value: Tensor) -> Tensor:
    """Mean over all ranks of a tensor that needs no gradient."""
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()
