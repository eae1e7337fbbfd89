"""Boxes: formats, the letterbox transform and its inverse, and IoU. Nothing else knows these.

Boxes are float tensors whose last dimension is 4: ``xyxy`` (x1, y1, x2, y2) or ``xywh`` (centre x,
centre y, width, height), in pixels unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

_SMALLEST = 1e-16
"""A height that is never divided below: (width / height)^2 still fits float32 for widths up to 1000 px."""


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Corners (..., 4) to centre and size (..., 4)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre and size (..., 4) to corners (..., 4)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


class Letterbox(NamedTuple):
    """How an image of (height, width) lies on a canvas, aspect ratio kept."""

    height: int
    """Height of the resized content, in px."""
    width: int
    """Width of the resized content, in px."""
    gain_x: float
    """Resized width / original width."""
    gain_y: float
    """Resized height / original height."""
    pad_x: int
    """Columns of padding on the left, in px."""
    pad_y: int
    """Rows of padding on the top, in px."""


def letterbox_geometry(
    height: int,
    width: int,
    size: int,
    canvas: tuple[int, int] | None = None,
    rounding: Callable[[float], int] = math.ceil,
) -> Letterbox:
    """Scale the longer side to ``size`` and centre the result, as classic YOLOv5 does.

    The odd pixel of padding goes to the right and the bottom (``load_image`` and ``letterbox`` of
    ultralytics/yolov5 v7.0).

    Args:
        height: of the image, in px.
        width: of the image, in px.
        size: the longer side after scaling, in px.
        canvas: height and width to centre in, in px; a square of ``size`` if left out.
        rounding: of the shorter side; classic training and validation round up, ``detect.py`` rounds
            to the nearest.
    """
    ratio = size / max(height, width)
    new_height = max(1, min(size, rounding(height * ratio)))
    new_width = max(1, min(size, rounding(width * ratio)))
    canvas_height, canvas_width = canvas or (size, size)
    return Letterbox(
        height=new_height,
        width=new_width,
        gain_x=new_width / width,
        gain_y=new_height / height,
        pad_x=(canvas_width - new_width) // 2,
        pad_y=(canvas_height - new_height) // 2,
    )


def enclosing_rectangle(height: int, width: int, stride: int, margin: float) -> tuple[int, int]:
    """Height and width in px of the smallest canvas of whole strides around a scaled image.

    Args:
        height: of the scaled image, in px.
        width: of the scaled image, in px.
        stride: largest stride of the network, in px.
        margin: added to each side of the canvas before it is rounded up, in strides; classic
            YOLOv5 validates with 0.5 and predicts with 0.
    """
    return math.ceil(height / stride + margin) * stride, math.ceil(width / stride + margin) * stride


def to_letterbox(boxes: Tensor, letterbox: Tensor) -> Tensor:
    """Original pixels to letterboxed pixels.

    Args:
        boxes: xyxy (..., 4) in pixels of the original image.
        letterbox: (..., 4) gain_x, gain_y, pad_x, pad_y, broadcast against ``boxes``.
    """
    gain, pad = letterbox[..., :2], letterbox[..., 2:]
    return boxes * torch.cat((gain, gain), dim=-1) + torch.cat((pad, pad), dim=-1)


def from_letterbox(boxes: Tensor, letterbox: Tensor, original_sizes: Tensor) -> Tensor:
    """Letterboxed pixels to original pixels, clipped to the image.

    Args:
        boxes: xyxy (B, N, 4) in pixels of the letterboxed image.
        letterbox: (B, 4) gain_x, gain_y, pad_x, pad_y.
        original_sizes: (B, 2) height, width in pixels.
    """
    gain, pad = letterbox[:, None, :2], letterbox[:, None, 2:]  # (B, 1, 2)
    boxes = (boxes - torch.cat((pad, pad), dim=-1)) / torch.cat((gain, gain), dim=-1)
    limit = original_sizes.flip(-1).to(boxes)[:, None].repeat(1, 1, 2)  # (B, 1, 4) w, h, w, h
    return torch.minimum(boxes.clamp_min(0), limit)


def box_area(boxes: Tensor) -> Tensor:
    """Area (...) of xyxy boxes (..., 4); zero for boxes that are inside out."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(dim=-1)


def pairwise_iou(first: Tensor, second: Tensor, eps: float = 1e-7) -> Tensor:
    """IoU (..., N, M) of every xyxy box of ``first`` (..., N, 4) with every one of ``second`` (..., M, 4)."""
    low = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])
    high = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    intersection = (high - low).clamp_min(0).prod(dim=-1)
    union = box_area(first)[..., :, None] + box_area(second)[..., None, :] - intersection
    return intersection / (union + eps)


def complete_iou(
    first: Tensor, second: Tensor, eps: float = 1e-7, *, box_format: Literal["xywh", "xyxy"] = "xywh"
) -> Tensor:
    """Complete IoU of boxes (..., 4), pair by pair, as classic YOLOv5 computes it.

    CIoU = IoU - d^2 / c^2 - alpha v with v = 4 / pi^2 (atan(w2 / h2) - atan(w1 / h1))^2 and alpha
    = v / (1 - IoU + v) held constant (Zheng et al. 2020, https://arxiv.org/abs/1911.08287).
    Leading dimensions broadcast. Sides must not be negative.

    Returns:
        (...), at most 1, finite even for a box without area.
    """
    if box_format == "xywh":
        (w1, h1), (w2, h2) = first[..., 2:].unbind(-1), second[..., 2:].unbind(-1)
        first, second = xywh_to_xyxy(first), xywh_to_xyxy(second)
    left1, top1, right1, bottom1 = first.unbind(-1)
    left2, top2, right2, bottom2 = second.unbind(-1)
    if box_format == "xyxy":
        w1, h1, w2, h2 = right1 - left1, bottom1 - top1, right2 - left2, bottom2 - top2
    # Side by side rather than along a dimension of 2: the backward pass of a product over a
    # dimension looks for zeros on the host.
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
