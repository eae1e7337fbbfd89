"""The training step without Lightning: augmentation, losses, gradients, and their accumulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data.augment import Augmentation
from ..data.batch import Batch
from ..model.losses import DetectionLoss
from ..model.network import DetectionNetwork
from ..system.lightning_internals import is_validation_due, validates_by_clock
from ..system.streams import run_beside


class Prepared(NamedTuple):
    """A batch as the network is trained on it."""

    images: Tensor
    """float32 (B, 3, S, S), 0..1, channels last as the augmentation makes them."""
    targets: Tensor
    """float32 (B, N, 5): class, x1, y1, x2, y2 in px."""
    mask: Tensor
    """bool (B, N), which rows of ``targets`` are labels."""


def augment(
    augmentation: Augmentation, batch: Batch, epoch: int, mosaic: bool, after_current: bool
) -> Prepared:
    """Augment a batch in float32, on the side stream if there is one; see ``streams.run_beside``."""
    device = batch.images.device
    with torch.autocast(device.type, enabled=False):
        return Prepared(*run_beside(device, partial(augmentation, batch, epoch, mosaic), after_current))


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


TrainingLosses = Callable[..., tuple[Tensor, dict[str, Tensor]]]
""":func:`training_losses`, or the same compiled."""


def compile_training(network: DetectionNetwork, mode: str | None) -> TrainingLosses:
    """Network and loss as one compiled graph; eager if ``mode`` is None.

    The network by itself is compiled too, in place, so that the names in its checkpoints stay the same.
    That costs nothing until it is called by itself.
    """
    if mode is None:
        return training_losses
    network.compile(fullgraph=True, dynamic=False, mode=mode)
    compiled: TrainingLosses = torch.compile(training_losses, fullgraph=True, dynamic=False, mode=mode)
    return compiled


def gradient_scale(batch_size: int, world_size: int) -> int:
    """Factor from the mean loss of a rank's batch to the loss whose gradient is summed.

    Classic YOLOv5 sums over images, so that the gradient of a step grows with its images up to the nominal
    batch size. DDP averages over ranks, which the second factor undoes.
    """
    return batch_size * world_size


def add_gradients(
    losses: TrainingLosses,
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
        self._restored: dict[str, Any] = {}

    def window_is_full(self, accumulate: int) -> bool:
        """Count a batch whose gradients were just added; True if the optimizer is to step."""
        self.pending += 1
        return self.pending >= accumulate

    def stepped(self) -> None:
        """Start a new window after a step of the optimizer."""
        self.pending = 0

    def state_dict(self, network: nn.Module, batch_size: int) -> dict[str, Any]:
        """Number of images that wait, at ``batch_size`` images of all ranks, and gradients, not copied."""
        gradients = {}
        if self.pending:
            gradients = {
                name: parameter.grad
                for name, parameter in network.named_parameters()
                if parameter.grad is not None
            }
        return {"images": self.pending * batch_size, "gradients": gradients}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the content of a checkpoint for :meth:`restore_gradients`."""
        self._restored = state

    def restore_gradients(self, network: nn.Module, batch_size: int) -> None:
        """Give the gradients back to the parameters, once those are on their device.

        ``batch_size``, the images of a batch of all ranks, may differ from that of the saved run.
        """
        if not self._restored:
            return
        images = self._restored.get("images", self._restored.get("pending", 0) * batch_size)
        self.pending = -(-images // batch_size)
        gradients = self._restored["gradients"]
        for name, parameter in network.named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter)
        self._restored = {}
