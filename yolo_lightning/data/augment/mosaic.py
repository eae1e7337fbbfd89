"""Mosaic: four images around a centre, laid out as by ``load_mosaic`` of ultralytics/yolov5 v7.0.

The canvas is the picture before the warp: 2H x 2W px for a mosaic, H x W px for a single image. It is
never built: ``bilinear`` samples it straight from the recent images.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..image_size import Size
from ..letterbox import width_and_height
from .config import AugmentationConfig
from .randomness import VIEW_STREAMS, SampleStream, ViewStream, between, integers


class Fates(NamedTuple):
    """What samples are made of; V views."""

    is_mosaic: Tensor  # bool (B,)
    is_cut: Tensor  # bool (B,), cutmix with the second view
    is_mixed: Tensor  # bool (B,), mixup with the second view
    own: Tensor  # int64 (B, V), ring row of each view's own image
    tiles: Tensor  # int64 (B, V, 4), ring rows of each view's mosaic


class Layout(NamedTuple):
    """Four tiles around a centre; tile t is left or right by bit 0 of t, above or below by bit 1."""

    rows: Tensor  # int64 (B, 4), ring rows of the tiles
    centre: Tensor  # int32 (B, 2), x and y where the tiles meet, in canvas px
    shift: Tensor  # int32 (B, 4, 2), canvas minus letterboxed coordinates, x and y
    extent: Tensor  # int32 (B, 4, 2), px covered by the tile, counted from the centre; 0 for no tile
    canvas: Tensor  # int32 (B, 2), width and height of the canvas in px


def recent_row(uniform: Tensor, newest: Tensor, filled: Tensor, capacity: int) -> Tensor:
    """Random rows (B,) among the ``filled`` most recent of ``capacity``, counted back from ``newest``."""
    return (newest - integers(uniform, filled)) % capacity


def choose_tiles(uniform: Tensor, own: Tensor, newest: Tensor, filled: Tensor, capacity: int) -> Tensor:
    """Ring rows (B, 4) of each mosaic: its ``own`` (B,) and three drawn with replacement, in random order.

    ``uniform`` is (B, VIEW_STREAMS); see :func:`recent_row` for the others.
    """
    partners = recent_row(uniform[:, ViewStream.PARTNER : ViewStream.PARTNER + 3], newest, filled, capacity)
    order = uniform[:, ViewStream.ORDER : ViewStream.ORDER + 4].argsort(dim=1)  # (B, 4)
    return torch.cat((own[:, None], partners), dim=1).gather(1, order)


def draw_fates(
    config: AugmentationConfig, uniform: Tensor, rows: Tensor, filled: Tensor, mosaic: Tensor, capacity: int
) -> Fates:
    """Decide which images each sample is made of: the same on the host and on a device.

    Args:
        uniform: float32 (B, SampleStream.END).
        rows: int64 (B,), ring row of each sample; the last is the newest in the ring.
        filled: int64 (), number of rows to draw from, counted back from the newest.
        mosaic: float32 (), 1 if mosaics are allowed, else 0.
        capacity: rows of the ring.
    """
    is_mosaic = uniform[:, SampleStream.MOSAIC] < config.mosaic * mosaic
    is_cut = is_mosaic & (uniform[:, SampleStream.CUTMIX] < config.cutmix)
    is_mixed = is_mosaic & ~is_cut & (uniform[:, SampleStream.MIXUP] < config.mixup)
    owns, tiles = [], []
    for number in range(config.views):
        draws = uniform[:, number * VIEW_STREAMS : (number + 1) * VIEW_STREAMS]
        own = rows if number == 0 else recent_row(draws[:, ViewStream.MAIN], rows[-1], filled, capacity)
        owns.append(own)
        tiles.append(choose_tiles(draws, own, rows[-1], filled, capacity))
    return Fates(is_mosaic, is_cut, is_mixed, torch.stack(owns, dim=1), torch.stack(tiles, dim=1))


def count_labels(fates: Fates, counts: Tensor) -> int:
    """Labels of all images that samples are made of, by the labels (R,) of each image in the ring.

    No batch has more: what follows removes labels, and adds none.
    """
    in_mosaic = counts[fates.tiles].sum(dim=2)  # (B, V)
    of_view = torch.where(fates.is_mosaic[:, None], in_mosaic, counts[fates.own])
    of_view[:, 1:] *= (fates.is_cut | fates.is_mixed)[:, None]
    return int(of_view.sum())


def lay_out(
    uniform: Tensor, rows: Tensor, own: Tensor, content: Tensor, is_mosaic: Tensor, size: Size
) -> Layout:
    """Place four tiles on a canvas of twice ``size``, or the whole letterboxed image on one of ``size``.

    ``rows`` (B, 4) are the ring rows of a mosaic's tiles, ``own`` (B,) those of single images, ``content``
    (R, 4) is left, top, width and height of the images in the ring; ``is_mosaic`` is bool (B,); ``size`` is
    H and W in px.
    """
    rectangle = content[rows]  # (B, 4, 4)
    corner, sides = rectangle[..., :2], rectangle[..., 2:]  # (B, 4, 2)
    where = uniform[:, ViewStream.CENTRE : ViewStream.CENTRE + 2]
    whole = width_and_height(size, content)  # (2,)
    centre = between(whole / 2, 3 * whole / 2, where).int()  # (B, 2)
    tile = torch.arange(4, device=rows.device)
    far = torch.stack((tile & 1, tile >> 1), dim=-1).int()  # (4, 2): 1 where right, where below
    # Tiles touch the centre with their nearest corner, and are cut at the edge of the canvas.
    start = centre[:, None] - (1 - far) * sides  # (B, 4, 2), canvas px of the content's first pixel
    room = torch.where(far == 1, 2 * whole - centre[:, None], centre[:, None])
    extent = torch.minimum(sides, room)
    # A single image is the lower right tile of a mosaic centred on the canvas' origin.
    mosaic = is_mosaic[:, None, None]
    alone = whole * far.prod(dim=-1, keepdim=True, dtype=torch.int32)  # (4, 2)
    return Layout(
        rows=torch.where(is_mosaic[:, None], rows, own[:, None]),
        centre=centre * is_mosaic[:, None],
        shift=(start - corner) * mosaic,
        extent=torch.where(mosaic, extent, alone),
        canvas=whole * (1 + is_mosaic.int())[:, None],
    )


def canvas_boxes(boxes: Tensor, shift: Tensor, canvas: Tensor) -> Tensor:
    """Map boxes (R, 4) from letterboxed to canvas px, by the shift (R, 2) of their tile, and clip them.

    ``canvas`` (R, 2) is width and height of each box's canvas.
    """
    moved = boxes + shift.to(boxes.dtype).repeat(1, 2)
    return torch.minimum(moved.clamp_min(0), canvas.to(boxes.dtype).repeat(1, 2))
