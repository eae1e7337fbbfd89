"""The training step without Lightning: from images to losses, and how gradients add up."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .losses import AnchorFreeLoss, AnchorFreeLossConfig, AnchorLoss, AnchorLossConfig
from .model.heads import AnchorFreeHead, AnchorHead
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


TrainingLosses = Callable[..., tuple[Tensor, dict[str, Tensor]]]
""":func:`training_losses`, or the same compiled."""


def compile_training(network: DetectionNetwork, mode: str | None) -> TrainingLosses:
    """Network and loss as one compiled graph, or as they are when ``mode`` is None.

    The network by itself is compiled too, in place, so that the names in its checkpoints stay as
    they are; that costs nothing until it is called by itself.
    """
    if mode is None:
        return training_losses
    network.compile(fullgraph=True, dynamic=False, mode=mode)
    compiled: TrainingLosses = torch.compile(training_losses, fullgraph=True, dynamic=False, mode=mode)
    return compiled


def build_criterion(
    head: AnchorHead | AnchorFreeHead, config: AnchorLossConfig, anchor_free_config: AnchorFreeLossConfig
) -> AnchorLoss | AnchorFreeLoss:
    """The loss that belongs to a head."""
    if isinstance(head, AnchorHead):
        return AnchorLoss(head.anchors, head.strides, head.num_classes, config)
    return AnchorFreeLoss(head.strides, head.num_classes, anchor_free_config, reg_max=head.reg_max)


def describe_gains(criterion: AnchorLoss | AnchorFreeLoss, image_size: int) -> str:
    """A sentence on the gains that act, for the log."""
    if isinstance(criterion, AnchorFreeLoss):
        return f"gains as given: box {criterion.config.box_gain:g}, class {criterion.config.class_gain:g}"
    given, acting = criterion.config, criterion.gains(image_size)
    return (
        f"box gain {given.box_gain:g} acts as {acting.box:g}, objectness gain {given.objectness_gain:g} as "
        f"{acting.objectness:g}, class gain {given.class_gain:g} as {acting.classes:g} "
        f"({len(criterion.strides)} levels, {criterion.num_classes} classes, {image_size} px)"
    )


def gradient_scale(batch_size: int, world_size: int) -> int:
    """Factor from the mean loss of a rank's batch to the loss whose gradient is summed.

    Classic YOLOv5 sums over images, so that the gradient of a step grows with the images in it up
    to the nominal batch size; DDP averages over ranks, which the second factor undoes.
    """
    return batch_size * world_size


def add_to_means(means: dict[str, Tensor], values: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """Means of named values over ``count`` batches, from those over one fewer; never waits for the device."""
    return {
        name: means[name] + (v - means[name]) / count if name in means else v for name, v in values.items()
    }


def rank_mean(value: Tensor) -> Tensor:
    """Mean over all ranks of a tensor that needs no gradient."""
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()


def share_buffers(model: nn.Module | None) -> None:
    """Give all ranks the buffers of rank 0, and let DDP leave them alone from here on in evaluation.

    DDP copies the running statistics of the batch norms before each forward pass. In evaluation
    that would hang, because the ranks have unequal numbers of batches; so they are copied once.
    """
    if isinstance(model, DistributedDataParallel):
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)
        model.require_forward_param_sync = False


def resume_sharing(model: nn.Module | None) -> None:
    """Undo :func:`share_buffers` for training."""
    if isinstance(model, DistributedDataParallel):
        model.require_forward_param_sync = True
