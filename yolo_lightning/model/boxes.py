"""Box formats, cells of the maps, and IoU.

Boxes are float tensors whose last dimension is 4: ``xyxy`` (x1, y1, x2, y2) or ``xywh`` (centre x,
centre y, width, height), in pixels unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

_SMALLEST = 1e-16
"""Least divisor of a width: (width / height)^2 still fits float32 for widths up to 1000 px."""


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Corners (..., 4) to centre and size (..., 4)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre and size (..., 4) to corners (..., 4)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def cell_corners(height: int, width: int, device: torch.device) -> Tensor:
    """Column and row of every cell of a map: float32 (H, W, 2)."""
    rows = torch.arange(height, dtype=torch.float32, device=device)
    columns = torch.arange(width, dtype=torch.float32, device=device)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((x, y), dim=-1)


def cell_centres(maps: Sequence[Tensor], strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Centres of all cells of maps (..., H, W), float32 (P, 2) in strides, and the strides (P,) in px."""
    corners = [cell_corners(level.shape[-2], level.shape[-1], level.device) for level in maps]
    centres = [each.flatten(0, 1) + 0.5 for each in corners]
    of_level = [torch.full_like(c[:, 0], stride) for c, stride in zip(centres, strides, strict=True)]
    return torch.cat(centres), torch.cat(of_level)


def boxes_from_distances(probabilities: Tensor, points: Tensor) -> Tensor:
    """Boxes xyxy (..., 4) from distributions over the distances of a point to the sides of its box.

    The distance to each side is the mean of a distribution over 0 .. reg_max - 1 (Li et al. 2020,
    https://arxiv.org/abs/2006.04388).

    Args:
        probabilities: float32 (..., 4, reg_max), for the left, top, right and bottom side.
        points: float32 (..., 2), in strides as the result.
    """
    distances = torch.arange(probabilities.shape[-1], dtype=torch.float32, device=points.device)
    with torch.autocast(points.device.type, enabled=False):  # it would multiply in half precision
        low, high = (probabilities @ distances).chunk(2, dim=-1)  # (..., 2) each
    return torch.cat((points - low, points + high), dim=-1)


def complete_iou(
    first: Tensor, second: Tensor, eps: float = 1e-7, *, box_format: Literal["xywh", "xyxy"] = "xywh"
) -> Tensor:
    """Complete IoU (...) of boxes (..., 4), pair by pair, as classic YOLOv5 computes it.

    CIoU = IoU - d^2 / c^2 - alpha v with v = 4 / pi^2 (atan(w2 / h2) - atan(w1 / h1))^2 and alpha
    = v / (1 - IoU + v) held constant (Zheng et al. 2020, https://arxiv.org/abs/1911.08287).
    Leading dimensions broadcast. Sides must not be negative. The result is finite, even for a box without
    area.
    """
    if box_format == "xywh":
        (w1, h1), (w2, h2) = first[..., 2:].unbind(-1), second[..., 2:].unbind(-1)
        first, second = xywh_to_xyxy(first), xywh_to_xyxy(second)
    left1, top1, right1, bottom1 = first.unbind(-1)
    left2, top2, right2, bottom2 = second.unbind(-1)
    if box_format == "xyxy":
        w1, h1, w2, h2 = right1 - left1, bottom1 - top1, right2 - left2, bottom2 - top2
    # No product over a dimension of 2, because its backward pass looks for zeros on the host.
    overlap_w = (torch.minimum(right1, right2) - torch.maximum(left1, left2)).clamp_min(0)
    overlap_h = (torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2)).clamp_min(0)
    intersection = overlap_w * overlap_h
    iou = intersection / (w1 * h1 + w2 * h2 - intersection + eps)
    hull_w = torch.maximum(right1, right2) - torch.minimum(left1, left2)
    hull_h = torch.maximum(bottom1, bottom2) - torch.minimum(top1, top2)
    hull_diagonal2 = hull_w.square() + hull_h.square() + eps
    # Twice the distance of the centres along each axis.
    apart_x, apart_y = left2 + right2 - left1 - right1, top2 + bottom2 - top1 - bottom1
    centre_distance2 = (apart_x.square() + apart_y.square()) / 4
    aspect1, aspect2 = torch.atan(w1 / h1.clamp_min(_SMALLEST)), torch.atan(w2 / h2.clamp_min(_SMALLEST))
    v = (4 / math.pi**2) * (aspect2 - aspect1).square()
    with torch.no_grad():
        alpha = v / (v - iou + (1 + eps))
    return iou - (centre_distance2 / hull_diagonal2 + v * alpha)
