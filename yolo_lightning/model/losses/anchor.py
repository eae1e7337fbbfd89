"""Classic YOLOv5 loss with shapes that do not depend on the number of labels.

The definition is that of ultralytics/yolov5 v7.0. Every label row has the same number of candidates (anchors
x 3 cells), and candidates that do not match have weight 0. So one compiled graph serves every batch and never
waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import InputError
from ..boxes import complete_iou
from .assign_anchor import Candidates, match_candidates
from .base import DetectionLoss

FOCAL_ALPHA = 0.25
"""Weight of positives in the focal loss; negatives have 1 - alpha (Lin et al. 2017)."""
OBJECTNESS_BALANCE = (4.0, 1.0, 0.25, 0.06, 0.02)
"""Weight of each level's objectness, finest first, of at most five levels."""
OBJECTNESS_BALANCE_OF_3 = (4.0, 1.0, 0.4)
"""The same for three levels."""


@dataclass(frozen=True)
class AnchorLossConfig:
    """Weights and thresholds of the classic loss; the defaults are those of ``hyp.scratch-low.yaml``.

    Raises:
        InputError: a value is out of its range.
    """

    box_gain: float = 0.05
    """Weight of the box loss for 3 levels; 0 or more."""
    objectness_gain: float = 1.0
    """Weight of the objectness loss for 3 levels and 640 px, scaled by the image's area; 0 or more."""
    class_gain: float = 0.5
    """Weight of the class loss for 3 levels and 80 classes, scaled by the number of classes; 0 or more."""
    class_positive_weight: float = 1.0
    """Weight of positives against negatives in the class loss; above 0."""
    objectness_positive_weight: float = 1.0
    """Weight of positives against negatives in the objectness loss; above 0."""
    anchor_threshold: float = 4.0
    """Factor by which the sides of a label and a matching anchor differ at most; above 1."""
    label_smoothing: float = 0.0
    """Class targets are 1 - s / 2 and s / 2 instead of 1 and 0; from 0 to below 1."""
    focal_gamma: float = 0.0
    """Exponent of the focal loss (https://arxiv.org/abs/1708.02002); 0 for none, 1.5 is usual."""
    class_weight_power: float = 0.0
    """Classes are weighted by the inverse of their frequency in the training set to this power in the class
    loss of a training: 0 weighs all alike, 1 gives each class the same weight in all; 0 or more."""

    def __post_init__(self) -> None:
        above = {"class_positive_weight": 0, "objectness_positive_weight": 0, "anchor_threshold": 1}
        for name, value in vars(self).items():
            if name in above:
                fits, numbers = value > above[name], f"above {above[name]}"
            elif name == "label_smoothing":
                fits, numbers = 0 <= value < 1, "from 0 to below 1"
            else:
                fits, numbers = value >= 0, "of 0 or more"
            if not fits:
                raise InputError(f"loss.{name} is {value}: give a number {numbers}")


class Gains(NamedTuple):
    """Factors of the parts of the loss."""

    box: float
    objectness: float
    classes: float


def _gather(raw: Tensor, candidates: Candidates) -> tuple[Tensor, Tensor]:
    """Candidates' predictions (K, 5+C) and all objectness (B*A*H*W,), float32, of a map (B, A, H, W, 5+C).

    The map is indexed in its memory order, which follows the memory format of the convolution. Gradients take
    the layout of the indexed tensor; in another order each would be copied.
    """
    strides = raw.stride()
    order = sorted(range(5), key=lambda dimension: -strides[dimension])
    in_memory = raw.permute(order)
    index = (candidates.image, candidates.anchor, candidates.row, candidates.column, slice(None))
    matched = in_memory[tuple(index[dimension] for dimension in order)]  # (K, 5+C)
    objectness = in_memory.narrow(order.index(4), 4, 1).permute([order.index(d) for d in range(5)])
    return matched.float(), objectness.float().flatten()


class AnchorLoss(DetectionLoss):
    """Box, objectness and class loss of the classic YOLOv5 head.

    The box loss is 1 - CIoU. The objectness target is the CIoU of the matched prediction, 0 for cells without
    a match. The class loss is a binary cross-entropy for each class. If a cell is matched more than once, its
    objectness target is the larger CIoU; in the classic code the last label wins, or the larger one with
    ``sort_obj_iou``. The numbers of matches pass through ``rank_mean``.

    Args:
        anchors: (L, A, 2) width and height of the anchors in units of the level's stride.
        strides: L strides in px, finest first.
        num_classes: C. With one class there is no class loss.
        config: gains and thresholds.

    Raises:
        InputError: there are more than 5 levels.
    """

    anchors: Tensor
    parts = ("box", "obj", "cls")

    def __init__(
        self,
        anchors: Tensor,
        strides: Sequence[int],
        num_classes: int,
        config: AnchorLossConfig | None = None,
    ) -> None:
        super().__init__()
        if len(strides) > len(OBJECTNESS_BALANCE):
            raise InputError(f"the anchor loss takes 1 to 5 levels, not {len(strides)}: use fewer strides")
        # Not saved, unlike those of the head. They share memory until the module is moved, so that a
        # checkpoint that is loaded into the head is loaded here too.
        self.register_buffer("anchors", anchors.detach().float(), persistent=False)
        self.strides = tuple(int(stride) for stride in strides)
        self.num_classes = num_classes
        self.config = config or AnchorLossConfig()
        self.class_weight_power = self.config.class_weight_power
        self.balance = OBJECTNESS_BALANCE_OF_3 if len(strides) == 3 else OBJECTNESS_BALANCE

    def anchors_px(self) -> Tensor:
        return self.anchors * self.anchors.new_tensor(self.strides)[:, None, None]

    def set_anchors_px(self, anchors_px: Tensor) -> None:
        if anchors_px.shape != self.anchors.shape:
            levels, per_level, _ = self.anchors.shape
            raise InputError(
                f"model.anchors has the shape {tuple(anchors_px.shape)}; give {levels} lists of {per_level} "
                "widths and heights in px, one list a level"
            )
        self.anchors.copy_(anchors_px / self.anchors.new_tensor(self.strides)[:, None, None])

    def forward(
        self, maps: Sequence[Tensor], targets: Tensor, mask: Tensor, divisor: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of a batch, see :class:`~.base.DetectionLoss`; classic YOLOv5 multiplies by B.

        Args:
            maps: L maps (B, A, H, W, 5 + C) of raw x, y, w, h, objectness and class logits.
            targets: as in ``DetectionLoss``, like ``mask``.
            divisor: (L,), divisor of the sums over matches, instead of the number of matches in this batch.
        """
        gains = self.gains(self.image_size_px or math.sqrt(math.prod(maps[0].shape[2:4])) * self.strides[0])
        targets = torch.where(mask[:, None], targets.float(), 0.0)  # padding may hold NaN
        levels = [self._match(level, raw.shape[2:4], targets, mask) for level, raw in enumerate(maps)]
        if divisor is None:
            divisor = self._divisor(torch.stack([each.weight.sum() for each in levels]))  # (L,)

        box = objectness = classes = divisor.new_zeros(())
        for level, (raw, candidates) in enumerate(zip(maps, levels, strict=True)):
            level_box, level_objectness, level_classes = self._level_loss(level, raw, candidates)
            box = box + level_box / divisor[level]
            objectness = objectness + level_objectness * self.balance[level]
            classes = classes + level_classes / divisor[level]
        box, objectness, classes = box * gains.box, objectness * gains.objectness, classes * gains.classes
        return box + objectness + classes, {
            "box": box.detach(),  # as in ``parts``
            "obj": objectness.detach(),
            "cls": classes.detach(),
        }

    def gains(self, image_size_px: float) -> Gains:
        """Gains in effect, scaled from those given for 3 levels, 80 classes and 640 px.

        As in ``train.py`` of classic YOLOv5: all by 3 / levels because the parts are summed over the levels,
        the class gain by classes / 80, and the objectness gain by the area of the images.
        """
        levels = 3 / len(self.strides)
        return Gains(
            box=self.config.box_gain * levels,
            objectness=self.config.objectness_gain * (image_size_px / 640) ** 2 * levels,
            classes=self.config.class_gain * self.num_classes / 80 * levels,
        )

    def describe_gains(self, image_size_px: float) -> str:
        """A sentence for the log on the gains in effect."""
        given, acting = self.config, self.gains(image_size_px)
        return (
            f"box gain {given.box_gain:g} acts as {acting.box:g}, objectness gain {given.objectness_gain:g} "
            f"as {acting.objectness:g}, class gain {given.class_gain:g} as {acting.classes:g} "
            f"({len(self.strides)} levels, {self.num_classes} classes, {image_size_px:g} px)"
        )

    @torch.no_grad()
    def joint_divisor(self, batches: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """Matches of a batch, averaged over batches and processes: float32 (L,), 1 where nothing matches."""
        counts = self.anchors.new_zeros(len(self.strides))
        for images, targets, mask in batches:
            targets = torch.where(mask[:, None], targets.float(), 0.0)
            for level, stride in enumerate(self.strides):
                shape = images.shape[2] // stride, images.shape[3] // stride
                counts[level] += self._match(level, shape, targets, mask).weight.sum()
        return self._divisor(counts / len(batches))

    def _divisor(self, counts: Tensor) -> Tensor:
        counts = self._mean_over_ranks(counts)
        # A mean of counts is zero only without any match on any process; then the sums are zero too.
        return torch.where(counts > 0, counts, 1.0)

    def _match(self, level: int, shape: Sequence[int], targets: Tensor, mask: Tensor) -> Candidates:
        anchors, stride = self.anchors[level], self.strides[level]
        return match_candidates(targets, mask, anchors, shape, stride, self.config.anchor_threshold)

    def _level_loss(self, level: int, raw: Tensor, candidates: Candidates) -> tuple[Tensor, Tensor, Tensor]:
        """Sum of the box loss, mean of the objectness loss, and sum of the class loss of a level.

        The class loss is averaged over the classes, then summed over the matches. Its tensors of (9R, C) are
        the largest: 12 MB each for room for 4,096 labels of 80 classes.
        """
        height, width = raw.shape[2:4]
        matched, logits = _gather(raw, candidates)  # (K, 5+C), (B*A*H*W,)
        centre = matched[..., :2].sigmoid() * 2 - 0.5
        sides = (matched[..., 2:4].sigmoid() * 2).square() * self.anchors[level][candidates.anchor]
        ciou = complete_iou(torch.cat((centre, sides), dim=-1), candidates.box)  # (K,)
        box = (candidates.weight * (1 - ciou)).sum()

        quality = ciou.detach() * (candidates.weight > 0)  # (K,)
        level_anchor = candidates.image * raw.shape[1] + candidates.anchor  # (K,)
        cell = (level_anchor * height + candidates.row) * width + candidates.column  # (K,)
        # The larger CIoU wins if a cell is matched twice, in any order of labels; zeros take part, so that
        # no target is negative.
        target = torch.zeros_like(logits).scatter_reduce(0, cell, quality, "amax")
        objectness = self._cross_entropy(logits, target, self.config.objectness_positive_weight).mean()

        if self.num_classes == 1:
            return box, objectness, torch.zeros_like(box)
        is_class = candidates.label[..., None] == torch.arange(self.num_classes, device=raw.device)
        smooth = self.config.label_smoothing / 2
        class_target = torch.where(is_class, 1 - smooth, smooth)  # (K, C)
        class_loss = self._cross_entropy(matched[..., 5:], class_target, self.config.class_positive_weight)
        if self.class_weights is not None and self.training:
            class_loss = class_loss * self.class_weights
        return box, objectness, (class_loss.mean(dim=-1) * candidates.weight).sum()

    def _cross_entropy(self, logits: Tensor, target: Tensor, positive_weight: float) -> Tensor:
        """Binary cross-entropy of each element, focal if ``focal_gamma`` is above 0."""
        weight = None if positive_weight == 1 else logits.new_full((), positive_weight)
        loss = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight, reduction="none")
        if self.config.focal_gamma == 0:
            return loss
        probability = logits.sigmoid()
        right = target * probability + (1 - target) * (1 - probability)
        alpha = target * FOCAL_ALPHA + (1 - target) * (1 - FOCAL_ALPHA)
        return loss * alpha * (1 - right) ** self.config.focal_gamma
