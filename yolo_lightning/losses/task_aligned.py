"""Task-aligned assignment: which points of the maps learn which label, and how strongly.

From TOOD (Feng et al. 2021, https://arxiv.org/abs/2108.07755) as ultralytics 8.4 trains the u models
with it. Every (label, point) pair is looked at, so that no shape depends on the labels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..boxes import complete_iou, xywh_to_xyxy, xyxy_to_xywh

ENLARGED_STRIDE = 1
"""Sides shorter than the stride of this level (the second) count as that long when points inside a
label are looked for; otherwise a tiny label would hold no point at all."""

_EPS = 1e-9


class Assignment(NamedTuple):
    """What each of the P points of the maps learns."""

    row: Tensor
    """int64 (B, P), the label row of each point; without meaning where ``score`` is 0."""
    score: Tensor
    """float32 (B, P) in 0..1: target of the class score, and weight of the box; 0 for background."""


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
    takes its ``top_k`` best points; a point taken twice goes to the label that it overlaps most. The score
    to learn is the rating, scaled within each label so that the best point's is the label's best CIoU.
    It takes a few tensors of (B, N, P) float32: 69 MB each for 16 images of 640 px with room for 128 labels.

    Args:
        class_logits: float32 (B, C, P).
        boxes: float32 (B, P, 4), the predicted xyxy in px.
        points: float32 (P, 2), x, y in px.
        targets: float32 (B, N, 5) class, x1, y1, x2, y2 in px, N at least 1.
        mask: bool (B, N), which rows are labels.
        shortest_side_px: shorter sides of labels are enlarged to this when points are looked for.
        top_k: points a label takes at most.
        alpha: exponent of the class score.
        beta: exponent of the CIoU.
    """
    labels, label_boxes = targets[..., 0].long(), targets[..., 1:]  # (B, N), (B, N, 4)
    inside = _points_inside(points, label_boxes, shortest_side_px) & mask[..., None]  # (B, N, P)
    overlap = complete_iou(label_boxes[:, :, None], boxes[:, None], box_format="xyxy").clamp_min(0)
    overlap = torch.where(inside, overlap, 0.0)  # (B, N, P)
    image = torch.arange(len(labels), device=labels.device)[:, None]
    probability = class_logits[image, labels].sigmoid()  # (B, N, P)
    rating = torch.where(inside, probability.pow(alpha) * overlap.pow(beta), 0.0)  # (B, N, P)

    best = rating.topk(min(top_k, rating.shape[-1]), dim=-1).indices  # (B, N, top_k)
    taken = torch.zeros_like(inside).scatter_(-1, best, True) & inside  # (B, N, P)
    # The label that a contested point overlaps most may be one that did not take it; so it is in
    # the definition.
    winner = overlap.argmax(dim=1, keepdim=True)  # (B, 1, P)
    contested = taken.sum(dim=1, keepdim=True) > 1  # (B, 1, P)
    is_winner = torch.zeros_like(taken).scatter_(1, winner, True)
    taken = torch.where(contested, is_winner, taken)

    rating = rating * taken
    best_rating = rating.amax(dim=-1, keepdim=True)  # (B, N, 1)
    best_overlap = (overlap * taken).amax(dim=-1, keepdim=True)  # (B, N, 1)
    score = (rating * best_overlap / (best_rating + _EPS)).amax(dim=1)  # (B, P)
    return Assignment(row=taken.byte().argmax(dim=1), score=score)


def _points_inside(points: Tensor, boxes: Tensor, shortest_side: float) -> Tensor:
    """Which of the points (P, 2) are strictly inside which of the xyxy boxes (B, N, 4): bool (B, N, P)."""
    boxes = xyxy_to_xywh(boxes)
    boxes = xywh_to_xyxy(torch.cat((boxes[..., :2], boxes[..., 2:].clamp_min(shortest_side)), dim=-1))
    left, top, right, bottom = boxes[..., None].unbind(-2)  # (B, N, 1) each
    x, y = points.unbind(-1)  # (P,) each
    return (x - left > _EPS) & (y - top > _EPS) & (right - x > _EPS) & (bottom - y > _EPS)
