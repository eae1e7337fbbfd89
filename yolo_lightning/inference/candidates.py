"""Candidates of a detection beyond one pass of one network: ensembles, test-time augmentation and tiles.

Each function turns functions from images to candidates into another one. Images are float32 (B, 3, H, W) RGB
in 0..1; candidates are boxes (B, K, 4) xyxy in px of the images, and scores (B, K, C) in 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Candidates = tuple[Tensor, Tensor]
FindCandidates = Callable[[Tensor], Candidates]

_SCALES = (1.0, 0.83, 0.67)
_FLIPPED = (False, True, False)
"""Passes of the test-time augmentation of classic YOLOv5: scale of the image, and whether it is mirrored."""
_GREY = 0.447
"""Mean of ImageNet, with which classic YOLOv5 pads a scaled image."""
_CUT_SHARE = 0.01
"""Distance from an edge of a tile, as a share of its side, within which a box counts as cut by the edge."""


def of_ensemble(models: Sequence[FindCandidates]) -> FindCandidates:
    """Candidates of several models, as classic YOLOv5 joins them: all of each."""

    def find(images: Tensor) -> Candidates:
        found = [model(images) for model in models]
        return torch.cat([boxes for boxes, _ in found], 1), torch.cat([scores for _, scores in found], 1)

    return find if len(models) > 1 else models[0]


def with_augmentation(model: FindCandidates, stride: int, levels: int) -> FindCandidates:
    """Candidates of three passes at scales 1, 0.83 (mirrored) and 0.67, as in classic YOLOv5.

    Of the first pass the candidates of the coarsest level are left out, and of the last those of the finest.

    Args:
        model: Candidates of one pass, the finest level first.
        stride: Largest stride of the model, in px.
        levels: Number of its levels, each of twice the stride of the one before.
    """
    whole = sum(4**level for level in range(levels))

    def find(images: Tensor) -> Candidates:
        found = []
        width = images.shape[-1]
        for scale, is_flipped in zip(_SCALES, _FLIPPED, strict=True):
            boxes, scores = model(_scaled(images.flip(3) if is_flipped else images, scale, stride))
            boxes = boxes / scale
            if is_flipped:
                x1, y1, x2, y2 = boxes.unbind(-1)
                boxes = torch.stack((width - x2, y1, width - x1, y2), -1)
            found.append((boxes, scores))
        coarsest = found[0][0].shape[1] // whole
        finest = found[-1][0].shape[1] // whole * 4 ** (levels - 1)
        first, second, last = found
        boxes = torch.cat((first[0][:, :-coarsest], second[0], last[0][:, finest:]), 1)
        return boxes, torch.cat((first[1][:, :-coarsest], second[1], last[1][:, finest:]), 1)

    return find


def _scaled(images: Tensor, scale: float, stride: int) -> Tensor:
    """Images at a scale, with grey at the right and below up to whole strides of the unscaled sides."""
    if scale == 1:
        return images
    height, width = images.shape[2:]
    size = int(height * scale), int(width * scale)
    small = functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
    padded = [math.ceil(side * scale / stride) * stride for side in (height, width)]
    return functional.pad(small, (0, padded[1] - size[1], 0, padded[0] - size[0]), value=_GREY)


def in_tiles(model: FindCandidates, tile: int, overlap: float, stride: int) -> FindCandidates:
    """Candidates of overlapping tiles of a large image, and of the whole image scaled to a tile.

    A box that an edge between tiles cuts off is left out: a neighbour has the object as a whole if it is
    smaller than the overlap, and the whole image has the larger ones.

    Args:
        model: Candidates of images up to the size of a tile.
        tile: Side of a tile, in px, a multiple of ``stride``.
        overlap: Least share of a tile that its neighbour shows, too, 0 to below 1.
        stride: Largest stride of the model, in px.
    """

    def find(images: Tensor) -> Candidates:
        height, width = images.shape[2:]
        if max(height, width) <= tile:
            return model(images)
        ratio = tile / max(height, width)
        small_size = [max(stride, round(side * ratio / stride) * stride) for side in (height, width)]
        small = functional.interpolate(images, size=small_size, mode="bilinear", antialias=True)
        boxes, scores = model(small)
        gain = boxes.new_tensor([width / small_size[1], height / small_size[0]]).repeat(2)
        found = [(boxes * gain, scores)]
        for top in _starts(height, tile, overlap):
            for left in _starts(width, tile, overlap):
                part = images[:, :, top : top + tile, left : left + tile]
                boxes, scores = model(part)
                corner = boxes.new_tensor([left, top, left, top])
                cut = _is_cut(boxes, part.shape[3], part.shape[2], (left, top), (width, height))
                found.append((boxes + corner, scores.masked_fill(cut[..., None], 0)))
        return torch.cat([boxes for boxes, _ in found], 1), torch.cat([scores for _, scores in found], 1)

    return find


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    """Offsets in px of the tiles along a side, evenly spread, the last one at the end."""
    if side <= tile:
        return [0]
    count = math.ceil((side - tile) / (tile * (1 - overlap))) + 1
    return [k * (side - tile) // (count - 1) for k in range(count)]


def _is_cut(
    boxes: Tensor, tile_width: int, tile_height: int, corner: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Mask bool (B, K) of boxes that reach an edge of their tile inside the image.

    ``corner`` is the left and top of the tile in the image, ``size`` the width and height of the image.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    near_x, near_y = _CUT_SHARE * tile_width, _CUT_SHARE * tile_height
    cut = torch.zeros_like(x1, dtype=torch.bool)
    if corner[0] > 0:
        cut |= x1 < near_x
    if corner[1] > 0:
        cut |= y1 < near_y
    if corner[0] + tile_width < size[0]:
        cut |= x2 > tile_width - near_x
    if corner[1] + tile_height < size[1]:
        cut |= y2 > tile_height - near_y
    return cut
