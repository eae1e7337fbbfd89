"""A grid of the feature maps of one layer."""

from __future__ import annotations

import math
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Interpolation = Literal["nearest", "bilinear"]

_GAP_PX = 4
_DARKEST, _BRIGHTEST = 1, 99
"""Percentiles of a channel at the ends of the colour scale."""
METHODS = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR}
"""OpenCV's flag for each interpolation."""


def strongest_channels(features: Floats, most: int) -> list[int]:
    """Numbers of the ``most`` channels of (C, h, w) with the largest variance, the largest first."""
    variances = finite(features).var(axis=(1, 2), dtype=np.float64)
    return [int(channel) for channel in np.argsort(-variances, kind="stable")[:most]]


def draw_grid(
    features: Floats, most: int = 32, tile_px: int = 160, interpolation: Interpolation = "nearest"
) -> Pixels:
    """Draw the channels with the largest variance as tiles, row by row, dark (low) to yellow (high).

    Each channel has its own scale, from its 1st to its 99th percentile, so that one extreme cell does not
    hide the others.

    Args:
        features: (C, h, w) of one image.
        most: maximum number of tiles.
        tile_px: approximate longer side of a tile; a cell is a whole number of px.
        interpolation: nearest shows the cells, bilinear blends them.

    Returns:
        RGB (H, W, 3).
    """
    channels, (height, width) = strongest_channels(features, most), features.shape[1:]
    factor = max(1, round(tile_px / max(height, width)))
    height, width = height * factor, width * factor
    columns = _columns(len(channels), height, width)
    rows = math.ceil(len(channels) / columns)
    canvas = np.full(
        (_GAP_PX + rows * (height + _GAP_PX), _GAP_PX + columns * (width + _GAP_PX), 3), 255, np.uint8
    )
    for place, channel in enumerate(channels):
        top = _GAP_PX + place // columns * (height + _GAP_PX)
        left = _GAP_PX + place % columns * (width + _GAP_PX)
        scaled = cv2.resize(
            _to_unit(features[channel]), (width, height), interpolation=METHODS[interpolation]
        )
        canvas[top : top + height, left : left + width] = coloured(scaled, cv2.COLORMAP_VIRIDIS)
    return canvas


def finite(features: Floats) -> Floats:
    """Features with 0 in place of NaN and infinity, which a diverging training has."""
    return np.nan_to_num(features.astype(np.float32, copy=False), nan=0.0, posinf=0.0, neginf=0.0)


def coloured(values: npt.NDArray[Any], colour_map: int) -> Pixels:
    """Numbers (H, W) in 0..1 as RGB (H, W, 3), by one of OpenCV's colour maps."""
    levels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels, colour_map)[..., ::-1])


def _to_unit(channel: Floats) -> Floats:
    """A channel (h, w) scaled to 0..1; a constant channel is 0."""
    values = finite(channel)
    low, high = np.percentile(values, (_DARKEST, _BRIGHTEST))
    if high <= low:  # a few cells may still stand out
        low, high = float(values.min()), float(values.max())
    return np.clip((values - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)


def _columns(count: int, height: int, width: int) -> int:
    """Columns of a grid that is about as wide as it is high."""
    return max(1, min(count, round(math.sqrt(count * height / width))))
