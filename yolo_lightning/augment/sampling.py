"""Bilinear sampling of a warped mosaic straight from packed source images.

Each output pixel is carried back to the canvas; each of the four canvas pixels around it is carried
on to its tile, and so to one address in the ring. Nothing between the two is stored. Selections are
made with bit masks because ``torch.where`` is not vectorised on a CPU (about ten times slower).
"""

from __future__ import annotations

import torch
from torch import Tensor

from yolo_lightning.augment.geometry import Layout
from yolo_lightning.augment.ring import MAX_PIXELS


def _choose(mask: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """``chosen`` where the int32 mask is -1 (all ones), ``other`` where it is 0."""
    return other ^ ((chosen ^ other) & mask)


def _less(first: Tensor, second: Tensor) -> Tensor:
    """Mask (-1 or 0) of first < second for int32 of small size."""
    return (first - second) >> 31


def _unpack(packed: Tensor, channel: int) -> Tensor:
    """Red (0), green (1) or blue (2) of packed pixels, as float32 0..255."""
    shifted = packed >> (8 * channel) if channel > 0 else packed
    return (shifted & 0xFF if channel < 2 else shifted).float()


def canvas_coordinates(
    inverse: Tensor, flip_x: Tensor, flip_y: Tensor, y: Tensor, size: int, axis_aligned: bool
) -> tuple[Tensor, Tensor]:
    """Canvas coordinates of output pixels, in px; pixel centres are whole numbers, as in cv2.

    Args:
        inverse: float32 (B, 3, 3), image px to canvas px.
        flip_x: bool (B,), whether the image is flipped left-right after the warp.
        flip_y: bool (B,), the same up-down.
        y: int64 (H,), rows of the output.
        size: S, columns of the output.
        axis_aligned: whether ``inverse`` has no rotation, shear or perspective.

    Returns:
        x and y: (B, H, S) each, or (B, 1, S) and (B, H, 1) where ``axis_aligned``.
    """

    def grid(values: Tensor, flip: Tensor) -> Tensor:
        values = values.to(inverse.dtype)
        return values + flip[:, None] * (size - 1 - 2 * values)  # (B, H) or (B, S)

    out_x = grid(torch.arange(size, device=y.device), flip_x)[:, None, :]  # (B, 1, S)
    out_y = grid(y, flip_y)[:, :, None]  # (B, H, 1)
    row = inverse[:, :, :, None, None]  # (B, 3, 3, 1, 1)
    if axis_aligned:
        x, y = row[:, 0, 0] * out_x + row[:, 0, 2], row[:, 1, 1] * out_y + row[:, 1, 2]
    else:
        x, y, depth = (row[:, i, 0] * out_x + row[:, i, 1] * out_y + row[:, i, 2] for i in range(3))
        depth = torch.where(depth == 0, torch.ones_like(depth), depth)
        x, y = x / depth, y / depth
    # Far outside is as grey as just outside, and fits into an integer.
    return x.clamp(-4, 2 * size + 4), y.clamp(-4, 2 * size + 4)


def _addresses(layout: Layout, x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor], size: int) -> list[list[Tensor]]:
    """Ring addresses of the 2 x 2 canvas pixels (x[i], y[j]), as ``[j][i]``; 0 where there is no tile."""
    base = (1 + layout.rows * (size * size)).int()  # (B, 4)
    base = base - layout.shift[..., 1] * size - layout.shift[..., 0]

    def tile(values: Tensor, number: int) -> Tensor:
        return values[:, number, None, None]  # (B, 1, 1)

    # A column's part of the address depends on whether the row is above or below, and the other way round.
    columns, right = [], []
    for position in x:
        after = _less(layout.centre[:, 0, None, None] - 1, position)
        distance = position - layout.centre[:, 0, None, None]
        distance = distance ^ ~after  # px from the centre, to the right or to the left
        parts = []
        for above in (0, 2):
            extent = _choose(after, tile(layout.extent[..., 0], above + 1), tile(layout.extent[..., 0], above))
            start = _choose(after, tile(base, above + 1), tile(base, above))
            parts.append(_choose(_less(distance, extent), position + start, torch.full_like(position, -MAX_PIXELS)))
        columns.append((parts[0], parts[0] ^ parts[1]))
        right.append(after)
    rows, below = [], []
    for position in y:
        after = _less(layout.centre[:, 1, None, None] - 1, position)
        distance = position - layout.centre[:, 1, None, None]
        distance = distance ^ ~after
        parts = []
        for left in (0, 1):
            extent = _choose(after, tile(layout.extent[..., 1], left + 2), tile(layout.extent[..., 1], left))
            parts.append(_choose(_less(distance, extent), position * size, torch.full_like(position, -MAX_PIXELS)))
        rows.append((parts[0], parts[0] ^ parts[1]))
        below.append(after)
    # -MAX_PIXELS, once or twice, outweighs any address: where there is no tile the sum is negative.
    return [
        [
            (
                (columns[i][0] ^ (columns[i][1] & below[j])) + (rows[j][0] ^ (rows[j][1] & right[i]))
            ).clamp_min(0)
            for i in (0, 1)
        ]
        for j in (0, 1)
    ]


def sample(pixels: Tensor, layout: Layout, x: Tensor, y: Tensor, size: int) -> list[Tensor]:
    """Bilinear values of a canvas, rounded to whole numbers as cv2 does.

    Args:
        pixels: int32 (1 + R*S*S,), the ring.
        layout: B canvases.
        x: float32 (B, H, W) or (B, 1, W), canvas px.
        y: float32 (B, H, W) or (B, H, 1), canvas px.
        size: S in px.

    Returns:
        Red, green and blue, float32 (B, H, W) each, 0..255.
    """
    x_floor, y_floor = x.floor(), y.floor()
    x_weight, y_weight = x - x_floor, y - y_floor
    left, top = x_floor.int(), y_floor.int()
    addresses = _addresses(layout, (left, left + 1), (top, top + 1), size)
    # index_select is ten times faster than indexing on a CPU.
    taps = [[pixels.index_select(0, a.reshape(-1)).view(a.shape) for a in line] for line in addresses]
    planes = []
    for channel in range(3):
        (a, b), (c, d) = [[_unpack(tap, channel) for tap in line] for line in taps]
        value = torch.lerp(torch.lerp(a, b, x_weight), torch.lerp(c, d, x_weight), y_weight)
        planes.append((value + 0.5).floor())
    return planes
