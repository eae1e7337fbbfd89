"""Where things go: mosaic layout, the warp, and what becomes of the boxes.

Follows ``load_mosaic``, ``random_perspective`` and ``box_candidates`` of ultralytics/yolov5 v7.0. The
"canvas" is the picture before the warp: 2S x 2S for a mosaic, S x S for a single image. It is never
built.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .config import AugmentationConfig
from .randomness import ViewStream, between, integers

MIN_SIDE_PX = 2.0
"""A box with a side of this or less after the warp is dropped."""
MIN_AREA_RATIO = 0.1
"""A box that keeps this fraction of its (zoomed) area or less is dropped."""
MAX_ASPECT = 100.0
"""A box of this aspect ratio or more is dropped."""


class Layout(NamedTuple):
    """Four tiles around a centre; tile t is left or right by bit 0 of t, above or below by bit 1.

    Attributes:
        rows: int64 (B, 4), ring rows.
        centre: int32 (B, 2), x and y where the tiles meet, in canvas px.
        shift: int32 (B, 4, 2), canvas minus letterboxed coordinates, x and y.
        extent: int32 (B, 4, 2), px that the tile covers, counted from the centre; 0 for no tile.
        canvas: int32 (B,), side of the canvas in px.
    """

    rows: Tensor
    centre: Tensor
    shift: Tensor
    extent: Tensor
    canvas: Tensor


class Warp(NamedTuple):
    """Canvas to image.

    Attributes:
        forward: float32 (B, 3, 3), canvas px to image px.
        inverse: float32 (B, 3, 3), image px to canvas px.
        scale: float32 (B,), the zoom in it.
    """

    forward: Tensor
    inverse: Tensor
    scale: Tensor


def recent_row(uniform: Tensor, newest: Tensor, filled: Tensor, capacity: int) -> Tensor:
    """Any of the ``filled`` most recent ring rows, from uniform numbers; counted back from ``newest``."""
    return (newest - integers(uniform, filled)) % capacity


def choose_tiles(uniform: Tensor, own: Tensor, newest: Tensor, filled: Tensor, capacity: int) -> Tensor:
    """Four ring rows a view: its own and three drawn with replacement, in random order.

    Args:
        uniform: (B, VIEW_STREAMS).
        own: int64 (B,), ring row of each view's own image.
        newest: int64 (), ring row of the newest image.
        filled: int64 (), rows, counted back from the newest, that may be drawn.
        capacity: R, rows of the ring.

    Returns:
        int64 (B, 4).
    """
    partners = recent_row(uniform[:, ViewStream.PARTNER : ViewStream.PARTNER + 3], newest, filled, capacity)
    order = uniform[:, ViewStream.ORDER : ViewStream.ORDER + 4].argsort(dim=1)  # (B, 4)
    return torch.cat((own[:, None], partners), dim=1).gather(1, order)


def lay_out(
    uniform: Tensor, rows: Tensor, own: Tensor, content: Tensor, is_mosaic: Tensor, size: int
) -> Layout:
    """Place four tiles on a canvas of 2S, or the whole letterboxed square on one of S.

    Args:
        uniform: (B, VIEW_STREAMS).
        rows: int64 (B, 4), ring rows of the tiles of a mosaic.
        own: int64 (B,), ring row of the single image.
        content: int32 (R, 4), left, top, width, height of the images in the ring.
        is_mosaic: bool (B,).
        size: S in px.
    """
    rectangle = content[rows]  # (B, 4, 4)
    corner, sides = rectangle[..., :2], rectangle[..., 2:]  # (B, 4, 2)
    where = uniform[:, ViewStream.CENTRE : ViewStream.CENTRE + 2]
    centre = between(size / 2, 3 * size / 2, where).int()  # (B, 2)
    tile = torch.arange(4, device=rows.device)
    far = torch.stack((tile & 1, tile >> 1), dim=-1).int()  # (4, 2): 1 where right, where below
    # Tiles touch the centre with their nearest corner; what sticks out of the canvas is cut.
    start = centre[:, None] - (1 - far) * sides  # (B, 4, 2), canvas px of the content's first pixel
    room = torch.where(far == 1, 2 * size - centre[:, None], centre[:, None])
    extent = torch.minimum(sides, room)
    # A single image is the lower right tile of a mosaic centred on the canvas' origin.
    mosaic = is_mosaic[:, None, None]
    alone = (size * far.prod(dim=-1, keepdim=True, dtype=torch.int32)).expand(4, 2)
    return Layout(
        rows=torch.where(is_mosaic[:, None], rows, own[:, None]),
        centre=centre * is_mosaic[:, None],
        shift=(start - corner) * mosaic,
        extent=torch.where(mosaic, extent, alone),
        canvas=size * (1 + is_mosaic.int()),
    )


def _stack(*entries: Tensor) -> Tensor:
    """Nine entries (B,) to (B, 3, 3), row by row."""
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


def draw_warp(config: AugmentationConfig, uniform: Tensor, canvas: Tensor, size: int) -> Warp:
    """Draw translation @ shear @ rotation and zoom @ perspective @ centring.

    Args:
        config: ranges.
        uniform: (B, VIEW_STREAMS).
        canvas: int32 (B,), side of each canvas in px.
        size: S, side of the output in px.
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
    move_x, move_y = (draw(ViewStream.TRANSLATE + axis, *middle) * size for axis in (0, 1))
    # Shear after rotation: y points down, and a positive angle turns anticlockwise as in cv2.
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    a, b = cosine - shear_x * sine, sine + shear_x * cosine
    d, e = shear_y * cosine - sine, shear_y * sine + cosine
    # Perspective after centring gives the rows (1, 0, -half), (0, 1, -half), (tilt_x, tilt_y, depth).
    half = canvas.to(uniform.dtype) / 2
    depth = 1 - half * (tilt_x + tilt_y)
    forward = _stack(
        a + move_x * tilt_x, b + move_x * tilt_y, move_x * depth - half * (a + b),
        d + move_y * tilt_x, e + move_y * tilt_y, move_y * depth - half * (d + e),
        tilt_x, tilt_y, depth,
    )  # fmt: skip
    return Warp(forward, _inverse(forward), scale)


def canvas_boxes(targets: Tensor, layout: Layout) -> Tensor:
    """Boxes (B, 4, N, 4) of four tiles from letterboxed px to canvas px, clipped to the canvas."""
    shift = layout.shift[:, :, None].to(targets.dtype)  # (B, 4, 1, 2)
    moved = targets + torch.cat((shift, shift), dim=-1)
    return torch.minimum(moved.clamp_min(0), layout.canvas[:, None, None, None].to(targets.dtype))


def warp_boxes(boxes: Tensor, matrix: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The upright hulls of warped boxes, clipped to the image.

    Args:
        boxes: (B, K, 4) xyxy in canvas px.
        matrix: (B, 3, 3), canvas px to image px.
        size: S in px.

    Returns:
        (B, K, 4) xyxy in image px, and bool (B, K): False where the perspective puts a corner on or
        behind the horizon, where a hull means nothing.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    x, y = torch.stack((x1, x2, x1, x2), dim=-1), torch.stack((y1, y2, y2, y1), dim=-1)  # (B, K, 4) corners
    row = matrix[:, :, None, None, :]  # (B, 3, 1, 1, 3)
    px, py, depth = (row[:, i, ..., 0] * x + row[:, i, ..., 1] * y + row[:, i, ..., 2] for i in range(3))
    in_front = (depth > 1e-6).all(dim=-1)
    depth = depth.clamp_min(1e-6)
    px, py = px / depth, py / depth
    hull = torch.stack((px.amin(-1), py.amin(-1), px.amax(-1), py.amax(-1)), dim=-1)
    return hull.clamp(0, size), in_front


def is_candidate(before: Tensor, after: Tensor) -> Tensor:
    """Which warped boxes are still worth learning from.

    Args:
        before: (..., 4) xyxy on the canvas, times the zoom.
        after: (..., 4) xyxy after warp and clip.

    Returns:
        bool (...).
    """
    width, height = (after[..., 2:] - after[..., :2]).unbind(-1)
    old_width, old_height = (before[..., 2:] - before[..., :2]).unbind(-1)
    eps = 1e-16
    aspect = torch.maximum(width / (height + eps), height / (width + eps))
    kept = width * height / (old_width * old_height + eps)
    return (width > MIN_SIDE_PX) & (height > MIN_SIDE_PX) & (kept > MIN_AREA_RATIO) & (aspect < MAX_ASPECT)
