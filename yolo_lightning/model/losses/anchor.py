"""The classic YOLOv5 loss, with shapes that do not depend on how many labels there are.

The definition is that of ultralytics/yolov5 v7.0, written for tensors of fixed shape: every label
row has the same number of candidates (anchors x 3 cells), and what does not match has weight 0. So
the loss compiles into one graph that serves every batch and never waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import InputError
from ..boxes import complete_iou
from .assign_anchor import Candidates, match_candidates

FOCAL_ALPHA = 0.25
"""Weight of the positives in the focal loss, 1 - alpha that of the negatives (Lin et al. 2017)."""

OBJECTNESS_BALANCE = {3: (4.0, 1.0, 0.4)}
"""Weight of each level's objectness for a network of three levels, finest first."""

OBJECTNESS_BALANCE_ELSE = (4.0, 1.0, 0.25, 0.06, 0.02)
"""The same for any other number of levels, at most five."""


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
    """A label matches an anchor when their sides differ by less than this factor; above 1."""
    label_smoothing: float = 0.0
    """Class targets are 1 - s / 2 and s / 2 instead of 1 and 0; from 0 to below 1."""
    focal_gamma: float = 0.0
    """Exponent of the focal loss (https://arxiv.org/abs/1708.02002); 0 for none, 1.5 is usual."""

    def __post_init__(self) -> None:
        for name in ("box_gain", "objectness_gain", "class_gain", "focal_gamma"):
            if not getattr(self, name) >= 0:
                raise InputError(f"loss.{name} is {getattr(self, name)}: give a number of 0 or more")
        for name, limit in (
            ("class_positive_weight", 0),
            ("objectness_positive_weight", 0),
            ("anchor_threshold", 1),
        ):
            if not getattr(self, name) > limit:
                raise InputError(f"loss.{name} is {getattr(self, name)}: give a number above {limit}")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(
                f"loss.label_smoothing is {self.label_smoothing}: give a number from 0 to below 1"
            )


class Gains(NamedTuple):
    """What each part of the loss is multiplied with."""

    box: float
    objectness: float
    classes: float


def scaled_gains(
    box_gain: float,
    objectness_gain: float,
    class_gain: float,
    *,
    num_levels: int,
    num_classes: int,
    image_size_px: int,
) -> Gains:
    """The gains that act, from those that the user gave for 3 levels, 80 classes and 640 px.

    Classic YOLOv5 scales them in ``train.py``: all by 3 / levels because the parts are summed over the
    levels, the class gain by classes / 80, and the objectness gain by the image's area.
    """
    levels = 3 / num_levels
    return Gains(
        box=box_gain * levels,
        objectness=objectness_gain * (image_size_px / 640) ** 2 * levels,
        classes=class_gain * num_classes / 80 * levels,
    )


def _gather(raw: Tensor, candidates: Candidates) -> tuple[Tensor, Tensor]:
    """From a map (B, A, H, W, 5+C), the candidates' predictions and the objectness of every cell and anchor.

    The map is read in the order in which it lies in memory (which follows the convolution's memory
    format), because gradients are laid out like what is indexed; in another order each would be copied.

    Returns:
        float32 (B, K, 5+C) and (B, A*H*W); the whole map is never converted.
    """
    strides = raw.stride()
    order = sorted(range(5), key=lambda dimension: -strides[dimension])
    in_memory = raw.permute(order)
    image = torch.arange(raw.shape[0], device=raw.device)[:, None]
    index = (image, candidates.anchor, candidates.row, candidates.column, slice(None))
    matched = in_memory[tuple(index[dimension] for dimension in order)]  # (B, K, 5+C)
    channel = order.index(4)
    objectness = in_memory.select(channel, 4)  # the other four dimensions, in the order of memory
    rest = [dimension for dimension in order if dimension != 4]
    objectness = objectness.permute([rest.index(dimension) for dimension in range(4)])  # (B, A, H, W)
    return matched.float(), objectness.float().flatten(1)


class AnchorLoss(nn.Module):
    """Box, objectness and class loss of the classic YOLOv5 head.

    The box loss is 1 - CIoU, the objectness target is the CIoU of the matched prediction (0 where nothing
    matches), the class loss is a binary cross-entropy a class. Where a cell is matched more than once, the
    larger CIoU is its objectness target; the classic code lets the last label win, or the larger one with
    ``sort_obj_iou``. All is computed in float32, whatever the precision of the maps.

    Args:
        anchors: (L, A, 2) width and height of the anchors in units of the level's stride.
        strides: L strides in px, finest first.
        num_classes: C. With one class there is no class loss.
        config: gains and thresholds.

    The attributes ``rank_mean``, ``ranks`` and ``image_size_px`` are those of
    :class:`~.protocol.DetectionLoss`; the numbers of matches pass through ``rank_mean``.

    Raises:
        InputError: anchors and strides do not fit each other, or there are more than 5 levels.
    """

    anchors: Tensor
    rank_mean: Callable[[Tensor], Tensor] | None
    parts = ("box", "obj", "cls")

    def __init__(
        self,
        anchors: Tensor,
        strides: Sequence[int],
        num_classes: int,
        config: AnchorLossConfig | None = None,
    ) -> None:
        super().__init__()
        if anchors.ndim != 3 or anchors.shape[2] != 2 or anchors.shape[0] != len(strides):
            raise InputError(
                f"anchors of shape {tuple(anchors.shape)} do not fit {len(strides)} strides: "
                "give (levels, anchors a level, 2)"
            )
        if not 1 <= len(strides) <= len(OBJECTNESS_BALANCE_ELSE):
            raise InputError(f"the anchor loss takes 1 to 5 levels, not {len(strides)}: use fewer strides")
        # Not saved: the head's are. They share memory until the module is moved, so that a checkpoint
        # that is loaded into the head is loaded here too.
        self.register_buffer("anchors", anchors.detach().float(), persistent=False)
        self.strides = tuple(int(stride) for stride in strides)
        self.num_classes = num_classes
        self.config = config or AnchorLossConfig()
        self.balance = OBJECTNESS_BALANCE.get(len(strides), OBJECTNESS_BALANCE_ELSE)[: len(strides)]
        self.rank_mean = None
        self.ranks = 1
        self.image_size_px: int | None = None

    def forward(
        self, maps: Sequence[Tensor], targets: Tensor, mask: Tensor, divisor: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, as a mean: classic YOLOv5 multiplies it by the batch size, this does not.

        Args:
            maps: L maps (B, A, H, W, 5 + C) of raw x, y, w, h, objectness and class logits, of any strides
                in memory; float32, float16 or bfloat16.
            targets: float32 (B, N, 5) class, x1, y1, x2, y2 in px of the network's input.
            mask: bool (B, N), which rows of ``targets`` are labels.
            divisor: (L,), what the sums over the matches of each level are divided by, instead of the
                numbers of matches in this batch (on all processes); see :meth:`joint_divisor`.

        Returns:
            The loss, a float32 scalar, and its parts ``box``, ``obj`` and ``cls``: detached scalars, gains
            included, that add up to it.
        """
        gains = self.gains(self.image_size_px or maps[0].shape[2] * self.strides[0])
        targets = torch.where(mask[..., None], targets.float(), 0.0)  # whatever the padding holds
        levels = [self._match(level, raw.shape[2:4], targets, mask) for level, raw in enumerate(maps)]
        if divisor is None:
            divisor = self._rank_mean_or_one(torch.stack([each.weight.sum() for each in levels]))  # (L,)

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

    def gains(self, image_size_px: int) -> Gains:
        """The gains that act on images of this size."""
        return scaled_gains(
            self.config.box_gain,
            self.config.objectness_gain,
            self.config.class_gain,
            num_levels=len(self.strides),
            num_classes=self.num_classes,
            image_size_px=image_size_px,
        )

    def describe_gains(self, image_size_px: int) -> str:
        """A sentence for the log on the gains in effect."""
        given, acting = self.config, self.gains(image_size_px)
        return (
            f"box gain {given.box_gain:g} acts as {acting.box:g}, objectness gain {given.objectness_gain:g} "
            f"as {acting.objectness:g}, class gain {given.class_gain:g} as {acting.classes:g} "
            f"({len(self.strides)} levels, {self.num_classes} classes, {image_size_px} px)"
        )

    @torch.no_grad()
    def joint_divisor(self, batches: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """Matches of a batch, averaged over batches and processes: float32 (L,), 1 where nothing matches."""
        counts = self.anchors.new_zeros(len(self.strides))
        for images, targets, mask in batches:
            targets = torch.where(mask[..., None], targets.float(), 0.0)
            for level, stride in enumerate(self.strides):
                shape = images.shape[2] // stride, images.shape[3] // stride
                counts[level] += self._match(level, shape, targets, mask).weight.sum()
        return self._rank_mean_or_one(counts / len(batches))

    def joint_correction(self, divisor: Tensor, found: Sequence[dict[str, Tensor]]) -> None:
        """Nothing to correct: the matches follow from the labels."""

    def _rank_mean_or_one(self, counts: Tensor) -> Tensor:
        if self.rank_mean is not None and self.training:
            counts = self.rank_mean(counts)
        # Only no match at all, on any process, makes a mean of counts zero; then the sums are zero too.
        return torch.where(counts > 0, counts, 1.0)

    def _match(self, level: int, shape: Sequence[int], targets: Tensor, mask: Tensor) -> Candidates:
        return match_candidates(
            targets,
            mask,
            self.anchors[level],
            height=shape[0],
            width=shape[1],
            stride=self.strides[level],
            anchor_threshold=self.config.anchor_threshold,
        )

    def _level_loss(self, level: int, raw: Tensor, candidates: Candidates) -> tuple[Tensor, Tensor, Tensor]:
        """For one level, the sum of the box loss, the mean of the objectness loss, the sum of the class loss.

        The class loss is a mean over the classes before it is summed over the matches. Its tensors of
        (B, 9N, C) are the largest: 47 MB each for 64 images with room for 256 labels of 80 classes.
        """
        height, width = raw.shape[2:4]
        matched, logits = _gather(raw, candidates)  # (B, K, 5+C), (B, A*H*W)
        centre = matched[..., :2].sigmoid() * 2 - 0.5
        sides = (matched[..., 2:4].sigmoid() * 2).square() * self.anchors[level][candidates.anchor]
        ciou = complete_iou(torch.cat((centre, sides), dim=-1), candidates.box)  # (B, K)
        box = (candidates.weight * (1 - ciou)).sum()

        quality = ciou.detach() * (candidates.weight > 0)  # (B, K)
        cell = (candidates.anchor * height + candidates.row) * width + candidates.column  # (B, K)
        # The larger CIoU wins where a cell is matched twice, whatever the order of the labels; the zeros
        # take part, so none is negative.
        target = torch.zeros_like(logits).scatter_reduce(1, cell, quality, "amax")
        objectness = self._cross_entropy(logits, target, self.config.objectness_positive_weight).mean()

        if self.num_classes == 1:
            return box, objectness, torch.zeros_like(box)
        is_class = candidates.label[..., None] == torch.arange(self.num_classes, device=raw.device)
        smooth = self.config.label_smoothing / 2
        class_target = torch.where(is_class, 1 - smooth, smooth)  # (B, K, C)
        class_loss = self._cross_entropy(matched[..., 5:], class_target, self.config.class_positive_weight)
        return box, objectness, (class_loss.mean(dim=-1) * candidates.weight).sum()

    def _cross_entropy(self, logits: Tensor, target: Tensor, positive_weight: float) -> Tensor:
        """Binary cross-entropy, element by element, focal when ``focal_gamma`` is above 0."""
        weight = None if positive_weight == 1 else logits.new_full((), positive_weight)
        loss = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight, reduction="none")
        if self.config.focal_gamma == 0:
            return loss
        probability = logits.sigmoid()
        right = target * probability + (1 - target) * (1 - probability)
        alpha = target * FOCAL_ALPHA + (1 - target) * (1 - FOCAL_ALPHA)
        return loss * alpha * (1 - right) ** self.config.focal_gamma
