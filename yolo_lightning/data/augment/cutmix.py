"""Cutmix: a rectangle of a second mosaic, pasted where the first has no object, as ultralytics 8.4 does."""

from __future__ import annotations

import torch
from torch import Tensor

from ..image_size import Size
from .randomness import AREAS, SampleStream

LEAST_INSIDE = 0.1
"""Part of a box of the second mosaic that must be inside the rectangle, so that the box is a label."""


def draw_areas(uniform: Tensor, size: Size) -> Tensor:
    """Rectangles float32 (B, AREAS, 4), xyxy in whole px of a picture of ``size`` (H, W) px, clipped to it.

    Each has the shape of the picture and covers a uniformly drawn part of its area, before clipping.
    ``uniform`` is (B, SampleStream.END).
    """
    draws = uniform[:, SampleStream.AREA : SampleStream.AREA + 3 * AREAS].unflatten(1, (AREAS, 3))
    share = draws[..., 0].sqrt()  # (B, AREAS), of each side
    ends = []
    for side, place in ((size[1], draws[..., 1]), (size[0], draws[..., 2])):
        half, centre = ((share * side).floor() / 2).floor(), (place * side).floor()
        ends.append([(centre - half).clamp(0, side), (centre + half).clamp(0, side)])
    (x1, x2), (y1, y2) = ends
    return torch.stack((x1, y1, x2, y2), dim=-1)


def overlaps(areas: Tensor, boxes: Tensor) -> Tensor:
    """Common area in px^2, (B, A, N), of rectangles (B, A, 4) and boxes (B, N, 4), all xyxy."""
    first = torch.maximum(areas[:, :, None, :2], boxes[:, None, :, :2])
    last = torch.minimum(areas[:, :, None, 2:], boxes[:, None, :, 2:])
    return (last - first).clamp_min(0).prod(dim=-1)


def choose_area(uniform: Tensor, image: Tensor, boxes: Tensor, mask: Tensor, size: Size) -> Tensor:
    """One of the drawn rectangles that touches no box, float32 (B, 4); an empty one if all of them do.

    ``boxes`` (R, 4) of the samples ``image`` (R,) are those of the first mosaic, if ``mask`` (R,).
    """
    areas = draw_areas(uniform, size)
    touches = (overlaps(areas[image], boxes[:, None]).squeeze(2) > 0) & mask[:, None]  # (R, AREAS)
    is_free = areas.new_zeros(areas.shape[:2]).index_add(0, image, touches.float()) == 0  # (B, AREAS)
    number = (uniform[:, SampleStream.CHOICE] * is_free.sum(dim=1)).floor()  # among the free ones
    is_chosen = is_free & (is_free.cumsum(dim=1) - 1 == number[:, None])
    return (areas * is_chosen[..., None]).sum(dim=1)


def paste(area: Tensor, image: Tensor, boxes: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Labels of the second mosaics that are enough inside their rectangles (B, 4); see :func:`choose_area`.

    Returns:
        Boxes (R, 4) clipped to the rectangle; bool (R,), which are labels; and the rectangles, empty for a
        sample without labels: nothing is pasted then.
    """
    whole = (boxes[:, 2:] - boxes[:, :2]).prod(dim=-1)  # (R,)
    of_label = area[image]  # (R, 4)
    inside = overlaps(of_label[:, None], boxes[:, None]).flatten() / whole.clamp_min(1e-9)
    mask = mask & (inside >= LEAST_INSIDE)
    pasted = area.new_zeros(len(area)).index_add(0, image, mask.float())  # (B,)
    corner, end = of_label[:, :2].repeat(1, 2), of_label[:, 2:].repeat(1, 2)
    return boxes.clamp(corner, end), mask, area * (pasted > 0)[:, None]


def outside(area: Tensor, y: Tensor, width: int) -> Tensor:
    """float32 (B, H, W): 0 for pixels of the rows ``y`` (H,) in a rectangle (B, 4), else 1."""
    x = torch.arange(width, device=y.device)
    left, top, right, bottom = area[:, :, None].unbind(1)  # (B, 1)
    columns, rows = ((p >= a) & (p < b) for p, a, b in ((x, left, right), (y, top, bottom)))  # (B, W), (B, H)
    return 1 - rows[:, :, None].float() * columns[:, None].float()
