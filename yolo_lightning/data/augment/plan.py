"""Plan of a batch: every random decision about its samples, before a pixel is touched."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..image_size import Size
from .config import AugmentationConfig
from .mosaic import Layout, draw_fates, lay_out
from .randomness import BETA_DRAWS, VIEW_STREAMS, SampleStream, beta_32_32, between
from .recent_images import RecentBuffers
from .warp import Warp, draw_warp


class View(NamedTuple):
    """One mosaic or one single image, on its way to the output."""

    layout: Layout
    warp: Warp


class Finish(NamedTuple):
    """Steps after the warp of a sample's views."""

    is_mixed: Tensor  # bool (B,), mixup: the second view is blended in
    is_cut: Tensor  # bool (B,), cutmix: part of the second view is pasted, if there is room
    area: Tensor  # float32 (B, 4), that part, xyxy in px of the output; empty for nothing
    blend: Tensor  # float32 (B,), weight of the first view, 1 without mixup
    gains: Tensor  # float32 (B, 3), hue, saturation, value
    flip_x: Tensor  # bool (B,), left-right flip
    flip_y: Tensor  # bool (B,), up-down flip
    swap: Tensor  # bool (B,), red and blue change places


def plan(
    config: AugmentationConfig,
    uniform: Tensor,
    recent: RecentBuffers,
    rows: Tensor,
    filled: Tensor,
    mosaic: Tensor,
    size: Size,
    window: Tensor | None = None,
) -> tuple[list[View], Finish]:
    """Decide everything about each sample before a pixel is touched.

    Args:
        uniform: float32 (B, SampleStream.END).
        rows: as for :func:`draw_fates`, like ``filled`` and ``mosaic``.

    Returns:
        One view, or two if mixup or cutmix is possible; and the later steps.
    """
    fates = draw_fates(config, uniform, rows, filled, mosaic, recent.label_count.shape[0])
    views, is_mixed = [], fates.is_mixed
    for number in range(config.views):
        draws = uniform[:, number * VIEW_STREAMS : (number + 1) * VIEW_STREAMS]
        own, tiles = fates.own[:, number], fates.tiles[:, number]
        layout = lay_out(draws, tiles, own, recent.content, fates.is_mosaic, size)
        views.append(View(layout, draw_warp(config, draws, layout.canvas, size, window)))
    ratio = beta_32_32(uniform[:, SampleStream.BETA : SampleStream.BETA + BETA_DRAWS])
    colour = [
        between(1 - extent, 1 + extent, uniform[:, SampleStream.COLOUR + channel])
        for channel, extent in enumerate((config.hsv_h, config.hsv_s, config.hsv_v))
    ]
    finish = Finish(
        is_mixed=is_mixed,
        is_cut=fates.is_cut,
        area=uniform.new_zeros(len(uniform), 4),
        blend=torch.where(is_mixed, ratio, torch.ones_like(ratio)),
        gains=torch.stack(colour, dim=1),
        flip_x=uniform[:, SampleStream.FLIP_LEFT_RIGHT] < config.flip_left_right,
        flip_y=uniform[:, SampleStream.FLIP_UP_DOWN] < config.flip_up_down,
        swap=uniform[:, SampleStream.BGR] < config.bgr,
    )
    return views, finish
