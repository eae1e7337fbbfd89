"""The contract between a loss and the training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from .anchor import AnchorLossConfig
from .anchor_free import AnchorFreeLossConfig


class LossConfigs(NamedTuple):
    """Options of all losses; a head picks its own in ``build_loss``."""

    anchor: AnchorLossConfig = AnchorLossConfig()
    anchor_free: AnchorFreeLossConfig = AnchorFreeLossConfig()


class DetectionLoss(Protocol):
    """Loss of a head: an ``nn.Module`` that computes in float32 for maps of any precision.

    Its shapes do not depend on the number of labels, so that it compiles into one graph.
    """

    image_size_px: int | None
    """Side of the training images; None takes it from the maps. Only losses that scale by it need it."""
    rank_mean: Callable[[Tensor], Tensor] | None
    """Mean of a tensor over the processes. In training, the divisor of the loss passes through it, so that
    the mean of the processes' gradients is the gradient of the joined batch. None for a single process."""
    ranks: int
    """Number of processes that ``rank_mean`` averages over."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the terms of the loss."""

    def __call__(
        self, maps: Sequence[Tensor], targets: Tensor, mask: Tensor, divisor: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over the images of a batch.

        Args:
            maps: raw maps of the head, one a level.
            targets: float32 (B, N, 5) class, x1, y1, x2, y2 in px of the network's input.
            mask: bool (B, N), which rows of ``targets`` are labels.
            divisor: from :meth:`joint_divisor`; None divides by what this batch (on all processes) gives.

        Returns:
            The loss, a float32 scalar, and its detached parts, which add up to it.
        """

    def joint_divisor(self, batches: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """Divisor with which the mean of the batches' losses is the loss of all of them joined.

        A loss that knows it only after the forward passes returns any positive number, and the remedy from
        :meth:`joint_correction`. A batch is images (B, 3, H, W), targets and mask.
        """

    def joint_correction(self, divisor: Tensor, found: Sequence[dict[str, Tensor]]) -> Tensor | None:
        """Factor that corrects gradients and parts after all batches; None if the divisor was right.

        ``found`` holds the parts of each batch; entries that are no parts are removed.
        """

    def describe_gains(self, image_size_px: int) -> str:
        """A sentence for the log on the gains in effect."""
