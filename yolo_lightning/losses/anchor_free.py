"""The loss of the anchor-free u models, with shapes that do not depend on how many labels there are.

The definition is that of ultralytics 8.4's detection loss. Every point of the maps takes part with the
weight that the assignment gives it, most of them with 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..boxes import complete_iou
from ..errors import InputError
from .task_aligned import ENLARGED_STRIDE, assign

_LAST_BIN_MARGIN = 0.01
"""How far a distance target stays below the last bin, in strides, so that it lies between two bins."""


@dataclass(frozen=True)
class AnchorFreeLossConfig:
    """Weights of the anchor-free loss and numbers of its assignment; the defaults are ultralytics'.

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
    """Points of the maps that a label takes at most; 1 or more."""
    alpha: float = 0.5
    """Exponent of the class score in the rating of a point for a label; 0 or more."""
    beta: float = 6.0
    """Exponent of the CIoU in the rating of a point for a label; 0 or more."""

    def __post_init__(self) -> None:
        for name, least in (
            ("box_gain", 0),
            ("class_gain", 0),
            ("dfl_gain", 0),
            ("top_k", 1),
            ("alpha", 0),
            ("beta", 0),
        ):
            value = getattr(self, name)
            if not value >= least:
                raise InputError(f"anchor_free_loss.{name} is {value}: give a number of {least} or more")


class AnchorFreeLoss(nn.Module):
    """Box, class and distribution focal loss of the anchor-free head.

    Each point of the maps predicts its distance to the four sides of a box as a distribution over
    0 .. reg_max - 1 strides (Li et al. 2020, https://arxiv.org/abs/2006.04388). With the task-aligned
    scores t (see ``task_aligned.assign``), box is the sum of t (1 - CIoU), class the sum of binary
    cross-entropies against t, dfl the sum of t times the cross-entropies of the two bins around each
    distance, averaged over the sides; each is divided by the sum of t, at least 1. All is computed in
    float32, whatever the precision of the maps.

    Args:
        strides: strides in px, one a level, finest first.
        num_classes: C.
        config: gains, and numbers of the assignment.
        reg_max: bins of a distribution, at least 2.

    Attributes:
        rank_mean: set for training on several processes: the mean of a tensor over the processes. The sum
            of the scores passes through it, so that the mean of the processes' gradients is the gradient of
            the joined batch.
        ranks: how many processes ``rank_mean`` takes the mean over.
    """

    rank_mean: Callable[[Tensor], Tensor] | None

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
        self.reg_max = reg_max
        self.rank_mean = None
        self.ranks = 1

    def forward(
        self, maps: Sequence[Tensor], targets: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, as a mean: ultralytics multiplies it by the batch size, this does not.

        Args:
            maps: for each level, (B, 4 * reg_max + C, H, W): logits of the distances to the left, top, right
                and bottom side (reg_max each), then C class logits; float32, float16 or bfloat16.
            targets: float32 (B, N, 5) class, x1, y1, x2, y2 in px of the network's input, N at least 1.
            mask: bool (B, N), which rows of ``targets`` are labels.

        Returns:
            The loss, a float32 scalar, and its parts ``box``, ``cls`` and ``dfl``: detached scalars, gains
            included, that add up to it.
        """
        raw = torch.cat([level.flatten(2) for level in maps], dim=2).float()  # (B, 4*reg_max+C, P)
        bins, class_logits = raw.split((4 * self.reg_max, self.num_classes), dim=1)
        log_bins = bins.unflatten(1, (4, self.reg_max)).log_softmax(dim=2)  # (B, 4, reg_max, P)
        points, strides = self._points(maps)  # (P, 2) in strides, (P,)
        boxes = self._decode(log_bins, points)  # (B, P, 4) xyxy in strides
        targets = torch.where(mask[..., None], targets.float(), 0.0)  # whatever the padding holds
        row, score = assign(
            class_logits.detach(),
            boxes.detach() * strides[:, None],
            points * strides[:, None],
            targets,
            mask,
            shortest_side_px=self.strides[min(ENLARGED_STRIDE, len(self.strides) - 1)],
            top_k=self.config.top_k,
            alpha=self.config.alpha,
            beta=self.config.beta,
        )
        total_score = score.sum()
        if self.rank_mean is not None and self.training:
            total_score = self.rank_mean(total_score)
        # At least 1 for all processes together, of which each holds its share.
        total_score = total_score.clamp_min(1 / (self.ranks if self.training else 1))

        assigned = targets.gather(1, row[..., None].expand(-1, -1, 5))  # (B, P, 5)
        assigned_boxes = assigned[..., 1:] / strides[:, None]  # (B, P, 4) in strides
        ciou = complete_iou(boxes, assigned_boxes, box_format="xyxy")  # (B, P)
        box = ((1 - ciou) * score).sum() / total_score * self.config.box_gain
        classes = self._class_loss(class_logits, assigned[..., 0].long(), score)
        classes = classes / total_score * self.config.class_gain
        dfl = (
            self._distribution_loss(log_bins, points, assigned_boxes, score)
            / total_score
            * self.config.dfl_gain
        )
        return box + classes + dfl, {"box": box.detach(), "cls": classes.detach(), "dfl": dfl.detach()}

    def _points(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Centres of all cells, float32 (P, 2) x, y in strides of their level, and the strides (P,) in px."""
        points, strides = [], []
        for level, stride in zip(maps, self.strides, strict=True):
            height, width = level.shape[-2:]
            y = torch.arange(height, dtype=torch.float32, device=level.device) + 0.5
            x = torch.arange(width, dtype=torch.float32, device=level.device) + 0.5
            grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")  # (H, W) each
            points.append(torch.stack((grid_x, grid_y), dim=-1).flatten(0, 1))  # (H*W, 2)
            strides.append(torch.full_like(grid_x, stride).flatten())  # (H*W,)
        return torch.cat(points), torch.cat(strides)

    def _decode(self, log_bins: Tensor, points: Tensor) -> Tensor:
        """Log-probabilities (B, 4, reg_max, P) to xyxy (B, P, 4) in strides, by the mean of each one."""
        distances = torch.arange(self.reg_max, dtype=torch.float32, device=log_bins.device)[:, None]
        # A sum, because autocast would run a matrix product in half precision.
        left, top, right, bottom = (log_bins.exp() * distances).sum(dim=2).unbind(1)  # (B, P) each
        x, y = points.unbind(-1)  # (P,) each
        return torch.stack((x - left, y - top, x + right, y + bottom), dim=-1)

    def _class_loss(self, logits: Tensor, labels: Tensor, score: Tensor) -> Tensor:
        """Sum of the cross-entropies of logits (B, C, P) with ``score`` (B, P) for the label's class, else 0.

        The cross-entropy softplus(x) - t x splits, so that no target of the logits' shape is made.
        """
        of_label = logits.gather(1, labels[:, None]).squeeze(1)  # (B, P)
        return F.softplus(logits).sum() - (of_label * score).sum()

    def _distribution_loss(self, log_bins: Tensor, points: Tensor, boxes: Tensor, score: Tensor) -> Tensor:
        """Sum over the points of score (B, P) times the cross-entropy of the bins around each distance.

        Args:
            log_bins: (B, 4, reg_max, P).
            points: (P, 2) in strides.
            boxes: (B, P, 4) xyxy that each point learns, in strides.
            score: (B, P).
        """
        distance = torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), dim=-1)  # (B, P, 4)
        distance = distance.transpose(1, 2).clamp(0, self.reg_max - 1 - _LAST_BIN_MARGIN)  # (B, 4, P)
        below = distance.long()
        part_above = distance - below  # (B, 4, P)
        log_below = log_bins.gather(2, below[:, :, None]).squeeze(2)  # (B, 4, P)
        log_above = log_bins.gather(2, below[:, :, None] + 1).squeeze(2)  # (B, 4, P)
        cross_entropy = -(log_below * (1 - part_above) + log_above * part_above)  # (B, 4, P)
        return (cross_entropy.mean(dim=1) * score).sum()
