"""The training step without Lightning: losses, gradients, and their accumulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..model.losses import DetectionLoss
from ..model.network import DetectionNetwork
from ..system.lightning_internals import is_validation_due, validates_by_clock


class Prepared(NamedTuple):
    """A batch as the network is trained on it."""

    images: Tensor  # float32 (B, 3, H, W), 0..1, channels last as the augmentation makes them
    targets: Tensor  # float32 (R, 6): image (0 .. B-1), class, x1, y1, x2, y2 in px
    mask: Tensor  # bool (R,), which rows of ``targets`` are labels


def training_losses(
    network: DetectionNetwork,
    criterion: DetectionLoss,
    images: Tensor,
    targets: Tensor,
    mask: Tensor,
    divisor: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean loss and its parts, see ``DetectionLoss``: one function, so that it compiles to one graph."""
    maps = network(images)
    with torch.autocast(images.device.type, enabled=False):
        return criterion(maps, targets, mask, divisor)


def add_gradients(
    losses: Callable[..., tuple[Tensor, dict[str, Tensor]]],
    network: DetectionNetwork,
    criterion: DetectionLoss,
    batches: Sequence[Prepared],
    backward: Callable[[Tensor], None],
    joint: bool,
) -> list[dict[str, Tensor]]:
    """Run the network on batches and add their gradients to those that wait.

    Args:
        losses: :func:`training_losses`, or the same compiled.
        network: the network; without gradients if ``joint``.
        criterion: its loss.
        batches: batches of the same number of images.
        backward: adds the gradient of a batch's mean loss.
        joint: sum up to the gradient of all batches as one large batch. By default each batch has a loss of
            its own, divided by its own matches.

    Returns:
        The parts of each batch's loss; if ``joint``, their means are the parts of the joined batch's.
    """
    divisor = criterion.joint_divisor(batches) if joint else None
    found = []
    for batch in batches:
        loss, parts = losses(network, criterion, *batch, divisor)
        backward(loss)
        found.append(parts)
    factor = None if divisor is None else criterion.joint_correction(divisor, found)
    if factor is None:
        return found
    torch._foreach_mul_([p.grad for p in network.parameters() if p.grad is not None], factor)
    return [{name: part * factor for name, part in parts.items()} for parts in found]


def add_to_means(
    means: dict[str, Tensor], values: Sequence[dict[str, Tensor]], count: int
) -> dict[str, Tensor]:
    """Means of named values over ``count`` batches, of which ``values`` are the last ones."""
    for number, one in enumerate(values, count + 1 - len(values)):
        means = {n: means[n] + (v - means[n]) / number if n in means else v for n, v in one.items()}
    return means


def is_followed_by_validation(trainer: Any) -> bool:
    """True if the epoch, or its part before a validation, ends with the current batch.

    Validations by the clock do not count, because the clocks of the ranks differ.
    """
    last: bool = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    return last or (not validates_by_clock(trainer) and is_validation_due(trainer))


def rank_mean(value: Tensor) -> Tensor:
    """Mean over all ranks of a tensor without gradient."""
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value / torch.distributed.get_world_size()


def share_buffers(model: nn.Module | None, *, in_each_step: bool) -> None:
    """Have DDP give all ranks the buffers of rank 0 in each step, or else give them once.

    DDP copies the running statistics of the batch norms before each forward pass. In an evaluation that
    would hang, because the ranks have unequal numbers of batches; so they are copied once.
    """
    if isinstance(model, DistributedDataParallel):
        if not in_each_step:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)
        model.require_forward_param_sync = in_each_step


class GradientAccumulator:
    """Counts the batches whose gradients wait in ``.grad``, and saves and restores them.

    If an epoch ends within a step, the step is completed in the next epoch, or in the run that resumes.

    With several ranks ``.grad`` holds the sum over all of them: gradients are reduced in every backward
    pass, although DDP's ``no_sync`` could postpone it. So the checkpoint that one rank writes within a step
    is complete.
    """

    def __init__(self) -> None:
        self.pending = 0
        """Batches summed since the last optimizer step."""
        self.saved: dict[str, Any] = {}
        """Content of a checkpoint, for :meth:`restore_gradients`."""

    def window_is_full(self, accumulate: int) -> bool:
        """Count a batch whose gradients were just added; True, and a new window, if it is time to step."""
        self.pending += 1
        if self.pending < accumulate:
            return False
        self.pending = 0
        return True

    def state_dict(self, network: nn.Module, batch_size: int) -> dict[str, Any]:
        """Number of images that wait, at ``batch_size`` images of all ranks, and gradients, not copied."""
        waiting = network.named_parameters() if self.pending else ()
        gradients = {name: parameter.grad for name, parameter in waiting if parameter.grad is not None}
        return {"images": self.pending * batch_size, "gradients": gradients}

    def restore_gradients(self, network: nn.Module, batch_size: int) -> None:
        """Give the gradients back to the parameters, once those are on their device.

        ``batch_size``, the images of a batch of all ranks, may differ from that of the saved run.
        """
        if not self.saved:
            return
        images = self.saved.get("images", self.saved.get("pending", 0) * batch_size)
        self.pending = -(-images // batch_size)
        gradients = self.saved["gradients"]
        for name, parameter in network.named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter)
        self.saved = {}
