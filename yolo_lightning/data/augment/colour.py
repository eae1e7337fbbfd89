"""Colour: hue, saturation and value gains, equal to those of classic YOLOv5 on 8-bit images.

Classic YOLOv5 goes through OpenCV's 8-bit HSV (H in 0..179, S and V in 0..255) and three look-up tables,
and cuts to whole numbers on the way. This darkens images a little, so it is reproduced. On a CPU ``opencv``
does this.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _to_hsv(red: Tensor, green: Tensor, blue: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whole RGB 0..255 to whole H 0..179, S 0..255, V 0..255 (OpenCV's ``COLOR_RGB2HSV`` for 8 bits)."""
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    saturation = (spread * 255 / value.clamp_min(1) + 0.5).floor()
    # 1 where the channel is the largest, else 0; the values are whole.
    from_red = (1 - (value - red)).clamp_min(0)
    from_green = (1 - (value - green)).clamp_min(0)
    hue = torch.lerp(red - green + 4 * spread, blue - red + 2 * spread, from_green)
    hue = torch.lerp(hue, green - blue, from_red)
    hue = (hue * 30 / spread.clamp_min(1) + 180.5).floor()  # 150..330
    return _wrap(hue), saturation, value


def _wrap(hue: Tensor) -> Tensor:
    """Subtract 180 from whole hues of 180..359."""
    return hue - 180 * (hue - 179).clamp(0, 1)


def _to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> list[Tensor]:
    """Whole HSV to whole RGB 0..255: for each channel V, minus V S times a trapezium of the hue.

    Cut, not rounded, as OpenCV's vectorised ``COLOR_HSV2RGB`` for 8 bits does.
    """
    sector = hue * (1 / 30)  # 0..6
    depth = value * (saturation / 255)  # at most the value, so nothing falls below 0
    lacks = (2 - (sector - 3).abs(), (sector - 2).abs() - 1, (sector - 4).abs() - 1)
    return [(value - depth * lack.clamp(0, 1)).floor() for lack in lacks]


def change_hsv(planes: list[Tensor], gains: Tensor) -> list[Tensor]:
    """Multiply hue, saturation and value of red, green and blue, float32 (B, H, W) each, whole 0..255.

    ``gains`` is (B, 3); hue's are from 0 to 2.
    """
    hue, saturation, value = _to_hsv(*planes)
    hue_gain, saturation_gain, value_gain = gains[:, :, None, None].unbind(1)  # (B, 1, 1)
    hue = _wrap((hue * hue_gain).floor())
    saturation = (saturation * saturation_gain).clamp_max(255).floor()
    value = (value * value_gain).clamp_max(255).floor()
    return _to_rgb(hue, saturation, value)
