"""Base class of the losses: the contract with the training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ...errors import InputError


def may_list(tensor: Tensor) -> bool:
    """Permit lists whose length depends on values of ``tensor``: only in eager code on a CPU.

    Elsewhere the host would wait for the device, a compiled graph would break, or there are no values.
    """
    is_fake = isinstance(tensor, FakeTensor)
    return tensor.device.type == "cpu" and not is_fake and not torch.compiler.is_compiling()


class DetectionLoss(nn.Module):
    """Loss of a head, computed in float32 for maps of any precision.

    The labels of a batch share one table. Shapes follow from its size and not from the labels in it, so that
    the loss compiles into one graph a size. Only where :func:`may_list` are labels listed.
    """

    parts: tuple[str, ...]
    """Names of the terms of the loss."""
    image_size_px: float | None = None
    """Side of a square with the area of the training images; None takes it from the maps. Only losses that
    scale by it need it."""
    rank_mean: Callable[[Tensor], Tensor] | None = None
    """Mean of a tensor over the processes. In training, the divisor of the loss passes through it, so that
    the mean of the processes' gradients is the gradient of the joined batch. None for a single process."""
    ranks: int = 1
    """Number of processes that ``rank_mean`` averages over."""
    class_weight_power: float = 0.0
    """Power for :meth:`weigh_classes`, from the options of the loss; 0 leaves all classes alike."""
    class_weights: Tensor | None
    """float32 (C,), weight of each class in the class loss of a training; None for equal weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("class_weights", None, persistent=False)

    def weigh_classes(self, counts: Sequence[int], power: float, device: torch.device | str) -> None:
        """Weigh each class by the inverse of its number of labels to a power; the mean weight is 1.

        Classes without labels get the mean weight, as in ultralytics; at least one class must have labels.
        ``device`` is that of the loss.
        """
        given = torch.tensor(counts, dtype=torch.float64)
        weights = given.clamp_min(1) ** -power
        weights = torch.where(given > 0, weights, weights[given > 0].mean())
        self.class_weights = (weights / weights.mean()).float().to(device)

    def forward(
        self, maps: Sequence[Tensor], targets: Tensor, mask: Tensor, divisor: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over the images of a batch.

        Args:
            maps: raw maps of the head, one a level; float32, float16 or bfloat16.
            targets: float32 (R, 6) image (0 .. B-1), class, x1, y1, x2, y2 in px of the network's input, R at
                least 1.
            mask: bool (R,), which rows of ``targets`` are labels.
            divisor: from :meth:`joint_divisor`; None divides by what this batch (on all processes) gives.

        Returns:
            The loss, a float32 scalar, and its detached parts, which add up to it.
        """
        raise NotImplementedError

    def joint_divisor(self, batches: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """Divisor with which the mean of the batches' losses is the loss of all of them joined.

        A loss that knows it only after the forward passes returns any positive number, and the remedy from
        :meth:`joint_correction`. A batch is images (B, 3, H, W), targets and mask.
        """
        raise NotImplementedError

    def joint_correction(self, divisor: Tensor, found: Sequence[dict[str, Tensor]]) -> Tensor | None:
        """Factor that corrects gradients and parts after all batches; None if the divisor was right.

        ``found`` holds the parts of each batch; entries that are no parts are removed.
        """
        return None

    def anchors_px(self) -> Tensor | None:
        """Width and height of the anchors, float32 (L, A, 2), a copy; None for a loss without anchors."""
        return None

    def set_anchors_px(self, anchors_px: Tensor) -> None:
        """Give other anchors (L, A, 2) to the loss and its head, before the module is moved to its device.

        Raises:
            InputError: there are no anchors, or another number of them.
        """
        raise InputError("model.anchors is given, but this model has no anchors; leave it out")

    def describe_gains(self, image_size_px: float) -> str:
        """A sentence for the log on the gains in effect."""
        raise NotImplementedError

    def _mean_over_ranks(self, value: Tensor) -> Tensor:
        return self.rank_mean(value) if self.rank_mean is not None and self.training else value
