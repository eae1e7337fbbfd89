"""Letterbox: an image scaled into a canvas with its aspect ratio kept, and boxes there and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

PAD_VALUE = 114
"""Grey of the padding, 0..255 in each channel."""


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
