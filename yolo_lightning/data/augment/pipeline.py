"""Steps of the augmentation as pure functions: plan, carry the targets, trace and render the pixels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import row_mask
from .bilinear import Footprint, canvas_coordinates, find_footprint, sample
from .colour import change_hsv, cut
from .config import AugmentationConfig
from .mosaic import Layout, canvas_boxes, choose_tiles, lay_out, recent_row
from .randomness import BETA_DRAWS, VIEW_STREAMS, SampleStream, ViewStream, beta_32_32, between
from .recent_images import RecentBuffers
from .warp import Warp, draw_warp, is_candidate, warp_boxes


class View(NamedTuple):
    """One mosaic or one single image, on its way to the output."""

    layout: Layout
    warp: Warp


class Finish(NamedTuple):
    """Steps after the warp of a sample's views."""

    blend: Tensor
    """float32 (B,), weight of the first view, 1 without mixup."""
    gains: Tensor
    """float32 (B, 3), hue, saturation, value."""
    flip_x: Tensor
    """bool (B,), left-right flip."""
    flip_y: Tensor
    """bool (B,), up-down flip."""


def plan(
    config: AugmentationConfig,
    uniform: Tensor,
    recent: RecentBuffers,
    rows: Tensor,
    filled: Tensor,
    mosaic: Tensor,
    size: int,
) -> tuple[list[View], Tensor, Finish]:
    """Decide everything about each sample before a pixel is touched.

    Args:
        config: Ranges and probabilities.
        uniform: float32 (B, SampleStream.END).
        recent: Images to draw from.
        rows: int64 (B,), ring row of each sample; the last is the newest in the ring.
        filled: int64 (), number of rows to draw from, counted back from the newest.
        mosaic: float32 (), 1 if mosaics are allowed, else 0.
        size: S in px.

    Returns:
        One view, or two if mixup is possible; bool (B,), True if the second one is used; the later steps.
    """
    is_mosaic = uniform[:, SampleStream.MOSAIC] < config.mosaic * mosaic
    is_mixed = is_mosaic & (uniform[:, SampleStream.MIXUP] < config.mixup)
    views, capacity = [], recent.label_count.shape[0]
    for number in range(2 if config.mixup > 0 else 1):
        draws = uniform[:, number * VIEW_STREAMS : (number + 1) * VIEW_STREAMS]
        own = rows if number == 0 else recent_row(draws[:, ViewStream.MAIN], rows[-1], filled, capacity)
        tiles = choose_tiles(draws, own, rows[-1], filled, capacity)
        layout = lay_out(draws, tiles, own, recent.content, is_mosaic, size)
        views.append(View(layout, draw_warp(config, draws, layout.canvas, size)))
    ratio = beta_32_32(uniform[:, SampleStream.BETA : SampleStream.BETA + BETA_DRAWS])
    colour = [
        between(1 - extent, 1 + extent, uniform[:, SampleStream.COLOUR + channel])
        for channel, extent in enumerate((config.hsv_h, config.hsv_s, config.hsv_v))
    ]
    finish = Finish(
        blend=torch.where(is_mixed, ratio, torch.ones_like(ratio)),
        gains=torch.stack(colour, dim=1),
        flip_x=uniform[:, SampleStream.FLIP_LEFT_RIGHT] < config.flip_left_right,
        flip_y=uniform[:, SampleStream.FLIP_UP_DOWN] < config.flip_up_down,
    )
    return views, is_mixed, finish


def carry_targets(
    recent: RecentBuffers, views: list[View], is_mixed: Tensor, finish: Finish, size: int
) -> tuple[Tensor, Tensor]:
    """Warp, clip, filter and flip the labels of all tiles of all views.

    Returns:
        float32 (B, N', 5) and the mask of real rows, bool (B, N'), N' = 4 N for each view. Real rows come
        first, the others are zero.
    """
    tables, masks = [], []
    for number, (layout, warp) in enumerate(views):
        targets = recent.targets[layout.rows]  # (B, 4, N, 5)
        capacity = targets.shape[2]
        real = row_mask(recent.label_count[layout.rows].flatten(), capacity).view(-1, 4, capacity)
        real = real & (layout.extent > 0).all(dim=-1)[:, :, None]
        before = canvas_boxes(targets[..., 1:], layout).flatten(1, 2)  # (B, 4N, 4)
        after, in_front = warp_boxes(before, warp.forward, size)
        mask = real.flatten(1) & in_front & is_candidate(before * warp.scale[:, None, None], after)
        if number > 0:
            mask = mask & is_mixed[:, None]
        tables.append(torch.cat((targets[..., :1].flatten(1, 2), after), dim=-1))
        masks.append(mask)
    table, mask = torch.cat(tables, dim=1), torch.cat(masks, dim=1)  # (B, N', 5), (B, N')
    label, x1, y1, x2, y2 = table.unbind(-1)
    flip_x, flip_y = finish.flip_x[:, None], finish.flip_y[:, None]
    x1, x2 = torch.where(flip_x, size - x2, x1), torch.where(flip_x, size - x1, x2)
    y1, y2 = torch.where(flip_y, size - y2, y1), torch.where(flip_y, size - y1, y2)
    table = torch.stack((label, x1, y1, x2, y2), dim=-1)
    order = torch.argsort(mask.to(torch.uint8), dim=1, descending=True, stable=True)
    mask = mask.gather(1, order)
    table = table.gather(1, order[:, :, None].expand_as(table))
    return torch.where(mask[:, :, None], table, torch.zeros_like(table)), mask


def trace(config: AugmentationConfig, view: View, finish: Finish, y: Tensor, size: int) -> Footprint:
    """Sources of the pixels in the output's rows ``y`` (H,)."""
    canvas_x, canvas_y = canvas_coordinates(
        view.warp.inverse, finish.flip_x, finish.flip_y, y, size, config.axis_aligned
    )
    return find_footprint(view.layout, canvas_x, canvas_y, size)


def render(
    config: AugmentationConfig, pixels: Tensor, footprints: list[Footprint], blend: Tensor, gains: Tensor
) -> list[Tensor]:
    """Sample, blend and colour.

    Args:
        config: Decides if colours change at all.
        pixels: int32 (1 + R*S*S,), see ``RecentBuffers``.
        footprints: One per view.
        blend: (B,), see ``Finish``.
        gains: (B, 3), see ``Finish``.

    Returns:
        Red, green and blue, float32 (B, H, S) each, 0..1.
    """
    drawn = [sample(pixels, footprint) for footprint in footprints]
    planes = drawn[0]
    if len(drawn) > 1:
        weight = blend[:, None, None]
        planes = [cut(a * weight + b * (1 - weight)) for a, b in zip(*drawn, strict=True)]
    if config.changes_colour:
        planes = change_hsv(planes, gains)
    return [plane / 255 for plane in planes]
