"""Task-aligned label assignment of the u models.

From TOOD (Feng et al. 2021, https://arxiv.org/abs/2108.07755), as in ultralytics 8.4. All pairs of label and
point are rated, so that no shape depends on the labels. Only eager code on a CPU, which waits for no device
and keeps no graph, lists the pairs that matter.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..boxes import complete_iou, xywh_to_xyxy, xyxy_to_xywh
from .base import may_list

ENLARGED_STRIDE = 1
"""Level, counted from 0, whose stride is the least side of labels in the search for points inside; otherwise
a tiny label would hold no point."""

_EPS = 1e-9


class Assignment(NamedTuple):
    """Label and score that each of the P points of the maps learns."""

    row: Tensor  # int64 (B, P), row of the targets for each point; arbitrary if ``score`` is 0
    score: Tensor  # float32 (B, P), 0..1, target of the class score, weight of the box; 0 for background


class _Labels(NamedTuple):
    """L rows of the targets."""

    image: Tensor  # int64 (L,)
    row: Tensor  # int64 (L,), row of the targets
    label: Tensor  # int64 (L,), class
    box: Tensor  # float32 (L, 4) xyxy in px
    is_label: Tensor  # bool (L,), False for padding


class _Rated(NamedTuple):
    """Ratings of points for labels."""

    overlap: Tensor  # float32 (L, P), CIoU, at least 0; arbitrary for points outside the label
    rating: Tensor  # float32 (L, P); 0 for points outside the label
    closest: Tensor  # int64 (B * P,), first label that overlaps a point most; arbitrary for background


@torch.no_grad()
def assign(
    class_logits: Tensor,
    boxes: Tensor,
    points: Tensor,
    targets: Tensor,
    mask: Tensor,
    *,
    shortest_side_px: float,
    top_k: int,
    alpha: float,
    beta: float,
) -> Assignment:
    """Give each label its best points and each point at most one label.

    A point inside a label is rated by p^alpha * CIoU^beta, p being its score for the label's class. A label
    takes its ``top_k`` best points; a point taken twice goes to the label that it overlaps most. The score to
    learn is the rating, scaled for each label so that its best point has the label's best CIoU. This takes a
    few float32 tensors of (R, P): 34 MB each for 640 px and room for 1,024 labels.

    Args:
        class_logits: float32 (B, C, P).
        boxes: float32 (B, P, 4), predicted xyxy in px.
        points: float32 (P, 2), x, y in px.
        targets: float32 (R, 6) image, class, x1, y1, x2, y2 in px, R at least 1.
        mask: bool (R,), which rows are labels.
        shortest_side_px: least side of labels in the search for points inside.
        top_k: most points of a label.
        alpha: exponent of the class score.
        beta: exponent of the CIoU.
    """
    labels = _flat_labels(targets, mask)
    inside = _points_inside(points, labels, shortest_side_px)  # (L, P)
    rate = _rate_listed if may_list(boxes) else _rate_all
    rated = rate(class_logits, boxes, labels, inside, alpha, beta)
    owner, taken = _owners(rated, labels, inside, min(top_k, len(points)))  # (B * P,) each

    # From here on a point counts for its owner alone.
    place = owner, torch.arange(len(owner), device=owner.device) % len(points)
    overlap = torch.where(taken, rated.overlap[place], 0.0)  # (B * P,)
    rating = torch.where(taken, rated.rating[place], 0.0)  # (B * P,)
    none = rating.new_zeros(len(labels.image))
    best_overlap = none.scatter_reduce(0, owner, overlap, "amax")  # (L,)
    best_rating = none.scatter_reduce(0, owner, rating, "amax")  # (L,)
    score = rating * best_overlap[owner] / (best_rating[owner] + _EPS)
    return Assignment(row=labels.row[owner].view(boxes.shape[:2]), score=score.view(boxes.shape[:2]))


def learning_points(score: Tensor, most: int) -> Tensor:
    """Indices (M,) of the flattened ``score`` (B, P) for the points that learn a box.

    They are distinct and include all points with a score; a list of fixed length has others too.

    Args:
        score: float32 (B, P), from :func:`assign`.
        most: most points with a score above 0.
    """
    if may_list(score):
        return score.flatten().nonzero().squeeze(1)
    return score.flatten().topk(min(most, score.numel()), sorted=False).indices


def _flat_labels(targets: Tensor, mask: Tensor) -> _Labels:
    """The labels if :func:`may_list`, else all rows; at least one row."""
    row = torch.arange(len(mask), device=mask.device)
    if may_list(mask):
        row = row[mask] if mask.any() else row[:1]  # a row of padding, so that no tensor below is empty
    target = targets[row]  # (L, 6)
    return _Labels(target[:, 0].long(), row, target[:, 1].long(), target[:, 2:], mask[row])


def _rate_all(
    class_logits: Tensor, boxes: Tensor, labels: _Labels, inside: Tensor, alpha: float, beta: float
) -> _Rated:
    """Rate all pairs of R rows and P points of their image; shapes as in :func:`assign`."""
    overlap = complete_iou(labels.box[:, None], boxes[labels.image], box_format="xyxy")  # (R, P)
    overlap = torch.where(inside, overlap.clamp_min(0), 0.0)
    of_image = labels.image[:, None].expand_as(overlap)  # (R, P)
    most = torch.zeros_like(boxes[..., 0]).scatter_reduce(0, of_image, overlap, "amax")  # (B, P)
    row = torch.arange(len(overlap), device=boxes.device, dtype=torch.int32)[:, None]
    is_most = inside & (overlap == most[labels.image])  # (R, P)
    candidate = torch.where(is_most, row, len(overlap) - 1)
    closest = torch.full_like(most, len(overlap) - 1, dtype=torch.int32)
    closest = closest.scatter_reduce(0, of_image, candidate, "amin").long()  # (B, P)
    probability = class_logits[labels.image, labels.label].sigmoid()  # (R, P)
    rating = torch.where(inside, probability.pow(alpha) * overlap.pow(beta), 0.0)
    return _Rated(overlap, rating, closest.flatten())


def _rate_listed(
    class_logits: Tensor, boxes: Tensor, labels: _Labels, inside: Tensor, alpha: float, beta: float
) -> _Rated:
    """:func:`_rate_all`, computed only for the M pairs that are inside; most pairs are not."""
    label, point = pair = inside.nonzero(as_tuple=True)  # (M,) each
    image = labels.image[label]
    overlap = complete_iou(labels.box[label], boxes[image, point], box_format="xyxy").clamp_min(0)  # (M,)
    probability = class_logits[image, labels.label[label], point].sigmoid()
    rating = probability.pow(alpha) * overlap.pow(beta)

    place = image * inside.shape[1] + point  # (M,) indices of the B * P points
    most = overlap.new_zeros(boxes[..., 0].numel()).scatter_reduce(0, place, overlap, "amax")
    last = len(inside) - 1
    candidate = torch.where(overlap == most[place], label, last)
    closest = torch.full_like(most, last, dtype=torch.int64).scatter_reduce(0, place, candidate, "amin")
    dense = overlap.new_empty(inside.shape).index_put_(pair, overlap)
    return _Rated(dense, overlap.new_zeros(inside.shape).index_put_(pair, rating), closest)


def _owners(rated: _Rated, labels: _Labels, inside: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Owner among the L labels, int64, and whether there is one, bool, of each of the (B * P,) points."""
    best = rated.rating.topk(top_k, dim=-1).indices  # (L, top_k)
    takes = inside.gather(1, best)  # (L, top_k), False beyond the points of a label
    place = (best + labels.image[:, None] * inside.shape[1]).flatten()  # of the B * P points
    takers = torch.zeros_like(rated.closest).scatter_add_(0, place, takes.flatten().long())  # (B * P,)
    index = torch.arange(len(best), device=best.device)[:, None].expand_as(best)
    taker = torch.where(takes, index, 0).flatten()
    taker = torch.zeros_like(rated.closest).scatter_reduce_(0, place, taker, "amax")
    # By definition, a contested point goes to the label it overlaps most, even to one that did not take it.
    return torch.where(takers > 1, rated.closest, taker), takers > 0


def _points_inside(points: Tensor, labels: _Labels, shortest_side: float) -> Tensor:
    """Points (P, 2) strictly inside each label: bool (L, P), False for padding."""
    boxes = xyxy_to_xywh(labels.box)
    boxes = xywh_to_xyxy(torch.cat((boxes[..., :2], boxes[..., 2:].clamp_min(shortest_side)), dim=-1))
    left, top, right, bottom = boxes[..., None].unbind(-2)  # (L, 1) each
    left = torch.where(labels.is_label[:, None], left, torch.inf)
    x, y = points.unbind(-1)  # (P,) each
    # The definition requires a distance above 1e-9, which holds for any float32 unequal to a point that is
    # half a pixel or more from 0.
    return (x > left) & (x < right) & (y > top) & (y < bottom)
