"""Bilinear sampling of a warped mosaic straight from the packed recent images, on a GPU.

Each output pixel is mapped back to the canvas, and each of the four canvas pixels around it to its tile,
and so to one address in the ring of recent images. Nothing between is stored. On a CPU ``opencv`` does this.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..image_size import Size
from .mosaic import Layout
from .recent_images import MAX_PIXELS

_MARGIN_PX = 4  # coordinates are clamped to this distance outside the canvas, where everything is grey


def _choose(mask: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """Select ``chosen`` if the int32 mask is -1 (all ones), ``other`` if it is 0."""
    return other ^ ((chosen ^ other) & mask)


def _less(first: Tensor, second: Tensor) -> Tensor:
    """Mask (-1 or 0) of first < second for small int32."""
    return (first - second) >> 31


def _unpack(packed: Tensor, channel: int) -> Tensor:
    """Red (0), green (1) or blue (2) of packed pixels, as float32 0..255."""
    shifted = packed >> (8 * channel) if channel > 0 else packed
    return (shifted & 0xFF if channel < 2 else shifted).float()


def canvas_coordinates(
    inverse: Tensor, flip_x: Tensor, flip_y: Tensor, y: Tensor, size: Size, axis_aligned: bool
) -> tuple[Tensor, Tensor]:
    """Canvas coordinates of output pixels, in px; pixel centres are whole numbers, as in cv2.

    Args:
        inverse: float32 (B, 3, 3), image px to canvas px.
        flip_x: bool (B,), left-right flip after the warp; ``flip_y`` is the up-down flip.
        y: int64 (K,), rows of the output.
        size: H and W of the output in px.
        axis_aligned: True if ``inverse`` has no rotation, shear or perspective.

    Returns:
        x and y: (B, K, W) each, or (B, 1, W) and (B, K, 1) if ``axis_aligned``.
    """

    def grid(values: Tensor, flip: Tensor, side: int) -> Tensor:
        values = values.to(inverse.dtype)
        return values + flip[:, None] * (side - 1 - 2 * values)  # (B, K) or (B, W)

    height, width = size
    out_x = grid(torch.arange(width, device=y.device), flip_x, width)[:, None, :]  # (B, 1, W)
    out_y = grid(y, flip_y, height)[:, :, None]  # (B, K, 1)
    row = inverse[:, :, :, None, None]  # (B, 3, 3, 1, 1)
    if axis_aligned:
        x, y = row[:, 0, 0] * out_x + row[:, 0, 2], row[:, 1, 1] * out_y + row[:, 1, 2]
    else:
        x, y, depth = (row[:, i, 0] * out_x + row[:, i, 1] * out_y + row[:, i, 2] for i in range(3))
        depth = torch.where(depth == 0, torch.ones_like(depth), depth)
        x, y = x / depth, y / depth
    return x.clamp(-_MARGIN_PX, 2 * width + _MARGIN_PX), y.clamp(-_MARGIN_PX, 2 * height + _MARGIN_PX)


class _Part(NamedTuple):
    """Part of an address that depends on one coordinate, for either half of the other coordinate."""

    before: Tensor  # int32, the part if the other coordinate is before the centre
    change: Tensor  # int32, ``before`` xor the part if the other coordinate is at or after the centre
    after: Tensor  # int32 mask, -1 if this coordinate is at or after the centre


def _part(position: Tensor, step: int, centre: Tensor, extents: list[Tensor], starts: list[Tensor]) -> _Part:
    """Address part of canvas coordinates along one axis, at ``position``, broadcastable to (B, H, W).

    Args:
        step: Pixels of memory from one position to the next.
        centre: int32 (B, 1, 1), canvas px.
        extents: px covered before and after the centre, first for the half in which the other coordinate is
            before its centre, then for the half in which it is after. int32 (B, 1, 1) each.
        starts: Addresses that ``step * position`` is added to, in the same order.
    """
    after = _less(centre - 1, position)
    distance = (position - centre) ^ ~after  # px from the centre, in either direction
    missing = torch.full_like(position, -MAX_PIXELS)
    halves = []
    for near in (0, 2):
        covered = _less(distance, _choose(after, extents[near + 1], extents[near]))
        address = position * step + _choose(after, starts[near + 1], starts[near])
        halves.append(_choose(covered, address, missing))
    return _Part(halves[0], halves[0] ^ halves[1], after)


class Footprint(NamedTuple):
    """Addresses in the ring of the 2 x 2 canvas pixels around each output pixel, and their weights.

    Shapes are (B, H, W). If columns stay columns, tensors of x are (B, 1, W) and tensors of y (B, H, 1).
    """

    x_weight: Tensor  # float32, weight of the right column
    y_weight: Tensor  # float32, weight of the lower row
    columns: tuple[_Part, _Part]  # the left and the right column
    rows: tuple[_Part, _Part]  # the upper and the lower row


def find_footprint(layout: Layout, x: Tensor, y: Tensor, size: Size) -> Footprint:
    """Map canvas coordinates to the tiles of B canvases.

    ``x`` is float32 (B, H, W) or (B, 1, W), ``y`` (B, H, W) or (B, H, 1), in canvas px; ``size`` is H and W.
    """

    def tiles(values: Tensor) -> list[Tensor]:
        return list(values[:, :, None, None].unbind(1))  # four (B, 1, 1)

    left, top = ((position + _MARGIN_PX).int() - _MARGIN_PX for position in (x, y))  # rounded down
    line = size[1]  # px of memory from one row of an image to the next
    base = (1 + layout.rows * math.prod(size)).int()  # (B, 4)
    starts = tiles(base - layout.shift[..., 1] * line - layout.shift[..., 0])
    width, height = tiles(layout.extent[..., 0]), tiles(layout.extent[..., 1])
    # Going down, the pairs are left of the centre (tiles 0, 2), then right of it (1, 3).
    height = [height[tile] for tile in (0, 2, 1, 3)]
    centre_x, centre_y = layout.centre[:, :, None, None].unbind(1)  # (B, 1, 1)
    nothing = [torch.zeros_like(centre_y)] * 4
    return Footprint(
        x - left,
        y - top,
        (_part(left, 1, centre_x, width, starts), _part(left + 1, 1, centre_x, width, starts)),
        (_part(top, line, centre_y, height, nothing), _part(top + 1, line, centre_y, height, nothing)),
    )


def _address(column: _Part, row: _Part) -> Tensor:
    """Addresses in the ring, int32 (B, H, W); without a tile 0, which is grey."""
    along_x = column.before ^ (column.change & row.after)
    along_y = row.before ^ (row.change & column.after)
    # -MAX_PIXELS in either or both outweighs any address, so that the sum is negative.
    return (along_x + along_y).clamp_min(0)


def sample(pixels: Tensor, footprint: Footprint) -> list[Tensor]:
    """Bilinear values from ``RecentBuffers.pixels``, rounded to whole numbers as cv2 does.

    Returns red, green and blue of B images or parts of them, float32 (B, H, W) each, 0..255.
    """
    taps = [[pixels[_address(column, row)] for column in footprint.columns] for row in footprint.rows]
    planes = []
    for channel in range(3):
        (a, b), (c, d) = [[_unpack(tap, channel) for tap in line] for line in taps]
        upper, lower = torch.lerp(a, b, footprint.x_weight), torch.lerp(c, d, footprint.x_weight)
        planes.append((torch.lerp(upper, lower, footprint.y_weight) + 0.5).floor())
    return planes
