"""Warp: the random affine and perspective transform of a canvas, and the boxes that survive it.

Follows ``random_perspective`` and ``box_candidates`` of ultralytics/yolov5 v7.0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..image_size import Size
from ..letterbox import width_and_height
from .config import AugmentationConfig
from .randomness import ViewStream, between

MIN_SIDE_PX = 2.0  # a box with a side of this or less after the warp is dropped
MIN_AREA_RATIO = 0.1  # a box that keeps this fraction of its (zoomed) area or less is dropped
MAX_ASPECT = 100.0  # a box of this aspect ratio or more is dropped


class Warp(NamedTuple):
    """Transform from canvas to image."""

    forward: Tensor  # float32 (B, 3, 3), canvas px to image px
    inverse: Tensor  # float32 (B, 3, 3), image px to canvas px
    scale: Tensor  # float32 (B,), its zoom


def draw_warp(
    config: AugmentationConfig, uniform: Tensor, canvas: Tensor, size: Size, window: Tensor | None = None
) -> Warp:
    """Draw translation @ shear @ rotation and zoom @ perspective @ centring.

    ``uniform`` is (B, VIEW_STREAMS), ``canvas`` int32 (B, 2) width and height of each canvas in px, ``size``
    H and W of the image in px; ``window`` as in :func:`warp_boxes`, whose sides then take the place of these.
    """

    def draw(stream: int, low: float, high: float) -> Tensor:
        return between(low, high, uniform[:, stream])

    def radians(stream: int, degrees: float) -> Tensor:
        return draw(stream, -math.radians(degrees), math.radians(degrees))

    tilt = config.perspective
    tilt_x, tilt_y = (draw(ViewStream.PERSPECTIVE + axis, -tilt, tilt) for axis in (0, 1))
    angle = radians(ViewStream.ANGLE, config.degrees)
    scale = draw(ViewStream.SCALE, 1 - config.scale, 1 + config.scale)
    shear_x, shear_y = (radians(ViewStream.SHEAR + axis, config.shear).tan() for axis in (0, 1))
    middle = (0.5 - config.translate, 0.5 + config.translate)
    moves = [draw(ViewStream.TRANSLATE + axis, *middle) for axis in (0, 1)]
    if window is None:
        move_x, move_y = (move * side for move, side in zip(moves, size[::-1], strict=True))
    else:
        shares = zip(moves, size[::-1], window, strict=True)
        move_x, move_y = ((whole - side) / 2 + move * side for move, whole, side in shares)
    # Shear after rotation: y points down, and a positive angle turns anticlockwise as in cv2.
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    a, b = cosine - shear_x * sine, sine + shear_x * cosine
    d, e = shear_y * cosine - sine, shear_y * sine + cosine
    # Perspective after centring gives the rows (1, 0, -half_x), (0, 1, -half_y), (tilt_x, tilt_y, depth).
    # A canvas has the shape of the image, so that half_x is aspect * half_y.
    aspect, half_y = size[1] / size[0], canvas[:, 1].to(uniform.dtype) / 2
    depth = 1 - half_y * (aspect * tilt_x + tilt_y)
    forward = _stack(
        a + move_x * tilt_x, b + move_x * tilt_y, move_x * depth - half_y * (aspect * a + b),
        d + move_y * tilt_x, e + move_y * tilt_y, move_y * depth - half_y * (aspect * d + e),
        tilt_x, tilt_y, depth,
    )  # fmt: skip
    return Warp(forward, _inverse(forward), scale)


def _stack(*entries: Tensor) -> Tensor:
    """Matrices (B, 3, 3) from nine entries (B,), row by row."""
    return torch.stack(entries, dim=-1).view(-1, 3, 3)


def _inverse(matrix: Tensor) -> Tensor:
    """Inverse of (B, 3, 3) by cofactors: unlike ``torch.linalg.inv`` it does not wait for the device."""
    a, b, c, d, e, f, g, h, i = matrix.flatten(1).unbind(1)
    first, second, third = e * i - f * h, f * g - d * i, d * h - e * g
    determinant = a * first + b * second + c * third
    cofactors = _stack(
        first, c * h - b * i, b * f - c * e,
        second, a * i - c * g, c * d - a * f,
        third, b * g - a * h, a * e - b * d,
    )  # fmt: skip
    return cofactors / determinant[:, None, None]


def warp_boxes(
    boxes: Tensor, matrix: Tensor, size: Size, window: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Warp boxes (B, K, 4), xyxy in px, by (B, 3, 3) and take their upright hulls, clipped to the image.

    ``size`` is H and W of the image in px. ``window`` float32 (2,), width and height in px, clips to the
    rectangle in its middle.

    Returns:
        (B, K, 4) xyxy in image px, and bool (B, K): False if the perspective puts a corner on or behind
        the horizon, so that there is no hull.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    x, y = torch.stack((x1, x2, x1, x2), dim=-1), torch.stack((y1, y2, y2, y1), dim=-1)  # (B, K, 4) corners
    row = matrix[:, :, None, None, :]  # (B, 3, 1, 1, 3)
    px, py, depth = (row[:, i, ..., 0] * x + row[:, i, ..., 1] * y + row[:, i, ..., 2] for i in range(3))
    in_front = (depth > 1e-6).all(dim=-1)
    depth = depth.clamp_min(1e-6)
    px, py = px / depth, py / depth
    hull = torch.stack((px.amin(-1), py.amin(-1), px.amax(-1), py.amax(-1)), dim=-1)
    whole = width_and_height(size, hull)
    used = whole if window is None else window
    return hull.clamp(((whole - used) / 2).repeat(2), ((whole + used) / 2).repeat(2)), in_front


def is_candidate(before: Tensor, after: Tensor) -> Tensor:
    """Mask bool (...) of warped boxes that remain labels: large enough, and not mostly cut off.

    ``before`` (..., 4) is xyxy on the canvas, times the zoom; ``after`` (..., 4) is xyxy after warp and clip.
    """
    width, height = (after[..., 2:] - after[..., :2]).unbind(-1)
    old_width, old_height = (before[..., 2:] - before[..., :2]).unbind(-1)
    eps = 1e-16
    aspect = torch.maximum(width / (height + eps), height / (width + eps))
    kept = width * height / (old_width * old_height + eps)
    return (width > MIN_SIDE_PX) & (height > MIN_SIDE_PX) & (kept > MIN_AREA_RATIO) & (aspect < MAX_ASPECT)
