"""Pixels of augmented images on a CPU: OpenCV warps a canvas, image by image.

A GPU samples the tiles without building the canvas, see ``bilinear``; to be fast, that needs a compiler, and
on a CPU a minute of compiling. OpenCV is as fast at once. It rounds coordinates to 1/32 px.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..image_size import Size
from ..letterbox import PAD_VALUE
from .config import AugmentationConfig
from .plan import Finish, View

Pixels = npt.NDArray[np.uint8]


def render_on_cpu(
    config: AugmentationConfig, pixels: Tensor, views: Sequence[View], finish: Finish, size: Size
) -> Tensor:
    """Draw planned images, uint8 (B, H, W, 3), RGB.

    Args:
        config: Ranges; tells which steps can be left out.
        pixels: Those of ``RecentBuffers``.
        views: One or two a sample.
        finish: Their later steps.
        size: H and W in px.
    """
    ring = pixels[1:].view(-1, *size).numpy()  # (R, H, W)
    images = np.empty((len(finish.blend), *size, 3), np.uint8)
    drawn = [_draw(config, ring, view, finish) for view in views]
    gains, weights = finish.gains.numpy(), finish.blend.tolist()
    areas, swapped = finish.area.int().tolist(), finish.swap.tolist()
    for number, (image, *second) in enumerate(zip(*drawn, strict=True)):
        for other in second:  # at most one
            image = _mix(image, other, weights[number], areas[number])
        image = _change_hsv(image, gains[number]) if config.changes_colour else image
        images[number] = image[..., 2::-1] if swapped[number] else image[..., :3]
    return torch.from_numpy(images)


def _draw(
    config: AugmentationConfig, ring: npt.NDArray[np.int32], view: View, finish: Finish
) -> Iterator[Pixels]:
    """Warped and flipped canvases of a view, uint8 (H, W, 4), with an unused channel, one by one."""
    height_px, width_px = ring.shape[1:]
    warp = cv2.warpPerspective if config.perspective else cv2.warpAffine
    matrices = view.warp.inverse.double().numpy()[:, : 3 if config.perspective else 2].copy()
    for axis, (flip, side) in enumerate(((finish.flip_x, width_px), (finish.flip_y, height_px))):
        flips = flip.numpy()
        matrices[flips, :, 2] += matrices[flips, :, axis] * (side - 1)
        matrices[flips, :, axis] *= -1
    rows, centres, shifts, extents, canvases = (part.tolist() for part in view.layout)
    whole = np.empty((2 * height_px, 2 * width_px), np.int32)
    for number, matrix in enumerate(matrices):
        (columns, lines), (centre_x, centre_y) = canvases[number], centres[number]
        canvas = whole[:lines, :columns]
        canvas[:] = PAD_VALUE * 0x010101
        for tile, row in enumerate(rows[number]):
            (x, y), (width, height) = shifts[number][tile], extents[number][tile]
            left, top = centre_x - width * (1 - tile % 2), centre_y - height * (1 - tile // 2)
            source = ring[row, top - y : top - y + height, left - x : left - x + width]
            canvas[top : top + height, left : left + width] = source
        packed = canvas.view(np.uint8).reshape(lines, columns, 4)
        flags, grey = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, (PAD_VALUE,) * 4
        yield np.asarray(warp(packed, matrix, (width_px, height_px), flags=flags, borderValue=grey))


def _mix(first: Pixels, second: Pixels, weight: float, area: list[int]) -> Pixels:
    """Mixup with the weight of the first, or cutmix of an area xyxy of the second, which may be empty."""
    if weight < 1:
        first = (first * np.float32(weight) + second * np.float32(1 - weight)).astype(np.uint8)
    left, top, right, bottom = area
    first[top:bottom, left:right] = second[top:bottom, left:right]
    return first


def _change_hsv(image: Pixels, gains: npt.NDArray[np.float32]) -> Pixels:
    """Multiply hue, saturation and value as classic YOLOv5 does; see ``colour``."""
    levels = np.arange(256, dtype=np.float32)[:, None] * gains  # (256, 3)
    levels[:, 0] %= 180
    table = levels.clip(0, 255).astype(np.uint8)[None]
    changed = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table)
    return np.asarray(cv2.cvtColor(changed, cv2.COLOR_HSV2RGB))
