"""Loss of the anchor-free u models, with shapes that do not depend on the number of labels.

The definition is that of the detection loss of ultralytics 8.4. A bounded number of points learn boxes, each
with a weight from the assignment that may be 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import InputError
from ..boxes import boxes_from_distances, cell_centres, complete_iou
from .assign_task_aligned import ENLARGED_STRIDE, assign, learning_points
from .base import DetectionLoss

_LAST_BIN_MARGIN = 0.01
"""Least distance of a target from the last bin, in strides, so that it lies between two bins."""


@dataclass(frozen=True)
class AnchorFreeLossConfig:
    """Gains of the anchor-free loss and options of its assignment; the defaults are ultralytics'.

    Raises:
        InputError: a value is out of its range.
    """

    box_gain: float = 7.5
    """Weight of the box loss; 0 or more."""
    class_gain: float = 0.5
    """Weight of the class loss; 0 or more."""
    dfl_gain: float = 1.5
    """Weight of the distribution focal loss; 0 or more."""
    top_k: int = 10
    """Most points of the maps that a label takes; 1 or more."""
    alpha: float = 0.5
    """Exponent of the class score in the rating of a point for a label; 0 or more."""
    beta: float = 6.0
    """Exponent of the CIoU in the rating of a point for a label; 0 or more."""
    class_weight_power: float = 0.0
    """Classes are weighted by the inverse of their frequency in the training set to this power in the class
    loss of a training: 0 weighs all alike, 1 gives each class the same weight in all; 0 or more."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 1 if name == "top_k" else 0
            if not value >= least:
                raise InputError(f"anchor_free_loss.{name} is {value}: give a number of {least} or more")


class AnchorFreeLoss(DetectionLoss):
    """Box, class and distribution focal loss of the anchor-free head.

    Each point of the maps predicts its distance to the four sides of a box as a distribution over
    0 .. reg_max - 1 strides (Li et al. 2020, https://arxiv.org/abs/2006.04388). With the task-aligned scores
    t (see ``assign_task_aligned.assign``), box is the sum of t (1 - CIoU), class the sum of binary
    cross-entropies against t, dfl the sum of t times the cross-entropies of the two bins at each distance,
    averaged over the sides. Each is divided by the sum of t, at least 1, which passes through ``rank_mean``.

    Args:
        strides: strides in px, one a level, finest first.
        num_classes: C.
        config: gains, and options of the assignment.
        reg_max: bins of a distribution, at least 2.
    """

    parts = ("box", "cls", "dfl")

    def __init__(
        self,
        strides: Sequence[int],
        num_classes: int,
        config: AnchorFreeLossConfig | None = None,
        *,
        reg_max: int = 16,
    ) -> None:
        super().__init__()
        self.strides = tuple(int(stride) for stride in strides)
        self.num_classes = num_classes
        self.config = config or AnchorFreeLossConfig()
        self.class_weight_power = self.config.class_weight_power
        self.reg_max = reg_max

    def forward(
        self, maps: Sequence[Tensor], targets: Tensor, mask: Tensor, divisor: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of a batch, see :class:`~.base.DetectionLoss`; ultralytics multiplies by B.

        Args:
            maps: for each level, (B, 4 * reg_max + C, H, W): logits of the distances to the left, top, right
                and bottom side (reg_max each), then C class logits.
            targets: as in ``DetectionLoss``, like ``mask``.
            divisor: scalar, divisor of the sums instead of the scores in this batch. With it, the parts have
                ``score``, the sum of this process's scores, for :meth:`joint_correction`.
        """
        # Points before channels: channels-last levels are joined without a transposition, and the bins of a
        # point lie side by side.
        raw = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)  # (B, P, 4*reg_max+C)
        points, strides = cell_centres(maps, self.strides)  # (P, 2) in strides, (P,)
        targets = torch.where(mask[:, None], targets.float(), 0.0)  # padding may hold NaN
        with torch.no_grad():
            boxes = boxes_from_distances(self._bins(raw).softmax(-1), points)  # (B, P, 4) xyxy in strides
            row, score = assign(
                raw[..., 4 * self.reg_max :].transpose(1, 2).float(),
                boxes * strides[:, None],
                points * strides[:, None],
                targets,
                mask,
                shortest_side_px=self.strides[min(ENLARGED_STRIDE, len(self.strides) - 1)],
                top_k=self.config.top_k,
                alpha=self.config.alpha,
                beta=self.config.beta,
            )
        total_score = score.sum()
        found = {} if divisor is None else {"score": total_score}
        if divisor is None:
            divisor = self._divisor(total_score)

        learning = learning_points(score, self.config.top_k * len(mask))  # (M,)
        rows, class_logits = _Read.apply(raw, learning, self.num_classes)  # (M, 4*reg_max+C), (B, P, C)
        score, point = score.flatten()[learning], learning % len(points)  # (M,) each
        assigned = targets[row.flatten()[learning], 1:]  # (M, 5)
        # The cross-entropy softplus(x) - t x is split, so that no target of the logits' shape is made.
        of_label = rows.gather(1, 4 * self.reg_max + assigned[:, :1].long()).squeeze(1)  # (M,)
        positives, all_logits = of_label * score, F.softplus(class_logits)
        if self.class_weights is not None and self.training:
            positives = positives * self.class_weights[assigned[:, 0].long()]
            all_logits = all_logits * self.class_weights
        classes = all_logits.sum() - positives.sum()
        box, dfl = self._box_losses(
            self._bins(rows), points[point], assigned[:, 1:] / strides[point, None], score
        )
        box = box / divisor * self.config.box_gain
        classes = classes / divisor * self.config.class_gain
        dfl = dfl / divisor * self.config.dfl_gain
        parts = {"box": box.detach(), "cls": classes.detach(), "dfl": dfl.detach()}
        return box + classes + dfl, parts | found

    def joint_divisor(self, batches: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """An arbitrary divisor: the right one follows from predictions, see :meth:`joint_correction`."""
        images, targets, _ = batches[0]
        return targets.new_full((), len(images))

    def joint_correction(self, divisor: Tensor, found: Sequence[dict[str, Tensor]]) -> Tensor:
        """Factor from gradients with ``divisor`` to those with the scores of all batches; takes ``score``."""
        score = torch.stack([parts.pop("score") for parts in found]).sum()
        return divisor * len(found) / self._divisor(score)

    def describe_gains(self, image_size_px: float) -> str:
        """A sentence for the log on the gains in effect."""
        return f"gains as given: box {self.config.box_gain:g}, class {self.config.class_gain:g}"

    def _divisor(self, score: Tensor) -> Tensor:
        """Mean of the scores over the processes, at least 1 for all together."""
        return self._mean_over_ranks(score).clamp_min(1 / (self.ranks if self.training else 1))

    def _bins(self, raw: Tensor) -> Tensor:
        """The distributions' logits, float32 (..., 4, reg_max), of points (..., 4 * reg_max + C)."""
        return raw[..., : 4 * self.reg_max].float().unflatten(-1, (4, self.reg_max))

    def _box_losses(
        self, bins: Tensor, points: Tensor, boxes: Tensor, score: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sums over M points of score times 1 - CIoU, and of score times the distribution focal loss.

        Args:
            bins: float32 (M, 4, reg_max), logits.
            points: (M, 2) in strides.
            boxes: (M, 4) xyxy that each point learns, in strides.
            score: (M,).
        """
        log_bins = bins.log_softmax(-1)
        ciou = complete_iou(boxes_from_distances(log_bins.exp(), points), boxes, box_format="xyxy")  # (M,)
        distance = torch.cat((points - boxes[:, :2], boxes[:, 2:] - points), dim=-1)  # (M, 4)
        distance = distance.clamp(0, self.reg_max - 1 - _LAST_BIN_MARGIN)
        below = distance.long()
        part_above = distance - below  # (M, 4)
        around = log_bins.gather(2, torch.stack((below, below + 1), dim=-1))  # (M, 4, 2)
        cross_entropy = -(around[..., 0] * (1 - part_above) + around[..., 1] * part_above)  # (M, 4)
        return ((1 - ciou) * score).sum(), (cross_entropy.mean(dim=1) * score).sum()


class _Read(torch.autograd.Function):
    """Reads all channels of some points, and the class logits of all points.

    For two separate indexings autograd would make two gradients of the maps' size and add them.
    """

    @staticmethod
    def forward(ctx: Any, raw: Tensor, learning: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """float32 rows (M, K + C) and class logits (B, P, C) of raw (B, P, K + C), learning (M,) distinct."""
        ctx.save_for_backward(learning)
        ctx.dtype = raw.dtype
        logits = raw[..., -num_classes:]
        logits = logits.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        return raw.flatten(0, 1)[learning].float(), logits

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of raw, in which each sum is rounded once."""
        (learning,) = ctx.saved_tensors
        rows, logits = gradients
        num_classes = logits.shape[2]
        bins = rows.shape[1] - num_classes
        whole = F.pad(logits.to(ctx.dtype), (bins, 0))  # (B, P, K + C)
        rows = rows + F.pad(logits.flatten(0, 1)[learning], (bins, 0))  # (M, K + C)
        whole.view(-1, bins + num_classes)[learning] = rows.to(ctx.dtype)
        return whole, None, None
