"""Predictions averaged over flips of the images (test-time augmentation), cell by cell before suppression."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..model.network import DetectionNetwork

_X, _Y = 3, 2  # dimensions of images (B, 3, H, W)


def flips_of(left_right: bool, up_down: bool) -> list[tuple[int, ...]]:
    """The dimensions of each flip of an image, the image as it is among them."""
    flips: list[tuple[int, ...]] = [()]
    if left_right:
        flips += [(_X, *dims) for dims in flips]
    if up_down:
        flips += [(_Y, *dims) for dims in flips]
    return flips


def predict_flipped(
    network: DetectionNetwork, images: Tensor, flips: Sequence[tuple[int, ...]]
) -> tuple[Tensor, Tensor]:
    """Boxes and scores of each cell, averaged over flips.

    Args:
        network: network in evaluation mode.
        images: float32 (B, 3, H, W), RGB, 0..1, letterboxed.
        flips: dimensions of the images along which each flip goes, see :func:`flips_of`.

    Returns:
        boxes, float32 (B, K, 4) xyxy in px, and scores, float32 (B, K, C) in 0..1; see ``Head.decode``.
    """
    total: tuple[Tensor, ...] = ()
    for dims in flips:
        boxes, scores = network.head.decode(network(images.flip(dims)))
        height, width = images.shape[-2:]
        cells = [(height // stride, width // stride) for stride in network.strides]
        if _X in dims:
            boxes = torch.stack(
                (width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]), -1
            )
        if _Y in dims:
            boxes = torch.stack(
                (boxes[..., 0], height - boxes[..., 3], boxes[..., 2], height - boxes[..., 1]), -1
            )
        one = _unflip(boxes, cells, dims), _unflip(scores, cells, dims)
        total = tuple(sum(pair) for pair in zip(total, one, strict=True)) if total else one
    return total[0] / len(flips), total[1] / len(flips)


def _unflip(values: Tensor, cells: list[tuple[int, int]], dims: tuple[int, ...]) -> Tensor:
    """Values (B, K, n) of cells of flipped images, each in the place of the cell of the plain image."""
    anchors = values.shape[1] // sum(height * width for height, width in cells)
    levels = values.split([anchors * height * width for height, width in cells], dim=1)
    unflipped = [
        level.unflatten(1, (anchors, *shape)).flip(dims).flatten(1, 3)  # (B, A, h, w, n)
        for level, shape in zip(levels, cells, strict=True)
    ]
    return torch.cat(unflipped, dim=1)
