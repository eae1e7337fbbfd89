"""Predictions on flipped images, cell by cell in the places of the plain image: they can be averaged."""

from __future__ import annotations

import torch
from torch import Tensor

from ..model.network import DetectionNetwork

_X, _Y = 3, 2  # dimensions of images (B, 3, H, W)
FLIPS: tuple[tuple[int, ...], ...] = ((), (_X,), (_Y,), (_X, _Y))
"""Dimensions along which each flip goes: the image as it is, left-right, up-down, both."""


def predict_flipped(
    network: DetectionNetwork, images: Tensor, flip: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Boxes and scores of images, predicted on the flipped ones.

    Args:
        network: network in evaluation mode.
        images: float32 (B, 3, H, W), RGB, 0..1, letterboxed.
        flip: one of ``FLIPS``.

    Returns:
        boxes, float32 (B, K, 4) xyxy in px of ``images``; scores, float32 (B, K, C) in 0..1; in the order of
        ``Head.decode``.
    """
    boxes, scores = network.head.decode(network(images.flip(flip)))
    height, width = images.shape[-2:]
    x1, y1, x2, y2 = boxes.unbind(-1)
    if _X in flip:
        x1, x2 = width - x2, width - x1
    if _Y in flip:
        y1, y2 = height - y2, height - y1
    cells = [(height // stride, width // stride) for stride in network.strides]
    return _unflip(torch.stack((x1, y1, x2, y2), dim=-1), cells, flip), _unflip(scores, cells, flip)


def _unflip(values: Tensor, cells: list[tuple[int, int]], flip: tuple[int, ...]) -> Tensor:
    """Values (B, K, n) of cells of flipped images, each in the place of the cell of the plain image."""
    anchors = values.shape[1] // sum(height * width for height, width in cells)
    levels = values.split([anchors * height * width for height, width in cells], dim=1)
    unflipped = [
        level.unflatten(1, (anchors, *shape)).flip(flip).flatten(1, 3)  # (B, A, h, w, n)
        for level, shape in zip(levels, cells, strict=True)
    ]
    return torch.cat(unflipped, dim=1)
