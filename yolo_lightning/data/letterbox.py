"""Letterbox: an image scaled into a canvas at its aspect ratio, and boxes mapped there and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .image_size import Size

PAD_VALUE = 114  # grey of the padding, 0..255 in each channel


class Letterbox(NamedTuple):
    """Size and place of an image on its canvas."""

    height: int  # height of the resized content, in px
    width: int  # width of the resized content, in px
    gain_x: float  # resized width / original width
    gain_y: float  # resized height / original height
    pad_x: int  # columns of padding on the left, in px
    pad_y: int  # rows of padding on the top, in px


def letterbox_geometry(
    height: int,
    width: int,
    size: Size,
    canvas: Size | None = None,
    rounding: Callable[[float], int] = math.ceil,
) -> Letterbox:
    """Scale an image of ``height`` x ``width`` px to fit into ``size`` and centre it, as classic YOLOv5.

    An odd pixel of padding goes to the right and the bottom (``load_image`` and ``letterbox`` of
    ultralytics/yolov5 v7.0).

    Args:
        size: Largest height and width after scaling, in px; the image has at least one of them.
        canvas: Height and width of the canvas, in px; ``size`` if left out.
        rounding: Rounding of the other side; classic training and validation round up, ``detect.py`` to
            the nearest.
    """
    ratio = min(size[0] / height, size[1] / width)
    new_height = max(1, min(size[0], rounding(height * ratio)))
    new_width = max(1, min(size[1], rounding(width * ratio)))
    canvas_height, canvas_width = canvas or size
    return Letterbox(
        height=new_height,
        width=new_width,
        gain_x=new_width / width,
        gain_y=new_height / height,
        pad_x=(canvas_width - new_width) // 2,
        pad_y=(canvas_height - new_height) // 2,
    )


def letterbox_ratios(sizes: npt.NDArray[np.integer], size: Size) -> npt.NDArray[np.float64]:
    """Factors (I,) by which letterboxing into ``size`` px scales images of heights and widths (I, 2)."""
    ratios: npt.NDArray[np.float64] = (np.array(size) / np.maximum(sizes, 1)).min(axis=1)
    return ratios


def enclosing_rectangle(height: int, width: int, stride: int, margin: float) -> Size:
    """Height and width of the smallest canvas of whole strides around a scaled image, all in px.

    ``margin`` strides are added before rounding up; classic YOLOv5 validates with 0.5 and predicts with 0.
    """
    return math.ceil(height / stride + margin) * stride, math.ceil(width / stride + margin) * stride


def width_and_height(size: Size, like: Tensor) -> Tensor:
    """Width and height of a size in px, (2,), on the device of a tensor and of its type.

    They are filled there: copying them would wait for the device.
    """
    return torch.stack([like.new_full((), side) for side in size[::-1]])


def to_letterbox(boxes: Tensor, letterbox: Tensor) -> Tensor:
    """Map boxes xyxy (..., 4) from original to letterboxed px; ``letterbox`` as in ``Batch``, (..., 4)."""
    gain, pad = letterbox[..., :2], letterbox[..., 2:]
    return boxes * torch.cat((gain, gain), dim=-1) + torch.cat((pad, pad), dim=-1)


def from_letterbox(boxes: Tensor, letterbox: Tensor, original_sizes: Tensor) -> Tensor:
    """Map boxes xyxy (B, N, 4) from letterboxed to original px, clipped to the image.

    ``letterbox`` (B, 4) and ``original_sizes`` (B, 2) are as in ``Batch``.
    """
    gain, pad = letterbox[:, None, :2], letterbox[:, None, 2:]  # (B, 1, 2)
    boxes = (boxes - torch.cat((pad, pad), dim=-1)) / torch.cat((gain, gain), dim=-1)
    limit = original_sizes.flip(-1).to(boxes)[:, None].repeat(1, 1, 2)  # (B, 1, 4) w, h, w, h
    return torch.minimum(boxes.clamp_min(0), limit)
