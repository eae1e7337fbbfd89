"""Augmentation module: from a ``Batch`` of uint8 images to the network's input and its targets.

The steps are pure functions of tensors: plan, carry the targets, trace and render the pixels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...errors import InputError
from ..batch import Batch, move_boxes, on_canvas, row_mask
from .bilinear import canvas_coordinates, find_footprint, sample
from .colour import change_hsv
from .config import AugmentationConfig
from .cutmix import choose_area, outside, paste
from .mosaic import Layout, canvas_boxes, choose_tiles, lay_out, recent_row
from .multi_scale import resize
from .opencv import render_on_cpu
from .randomness import BETA_DRAWS, VIEW_STREAMS, SampleStream, ViewStream, beta_32_32, between, uniforms
from .recent_images import RecentBuffers, RecentImages
from .warp import Warp, draw_warp, is_candidate, warp_boxes


def normalise(images: Tensor) -> Tensor:
    """Scale uint8 images (B, 3, H, W) to float32 0..1, as validation does; keeps the memory format."""
    return images.float() / 255


class Augmentation(nn.Module):
    """Batched augmentation on the device of the batch.

    The result for an image depends on (seed, epoch, index) and, for a mosaic, on the earlier batches of the
    epoch; on nothing else, and on no random generator.

    Args:
        config: Ranges and probabilities.
        seed: 0 to 2^63 - 1.
        recent_batches: Batches that mosaics draw from, the current one included. They take 4 bytes per
            pixel: 64 images of 640 px take 105 MB.

    Raises:
        InputError: ``seed`` is out of range.
    """

    seed: Tensor

    def __init__(self, config: AugmentationConfig, seed: int = 0, recent_batches: int = 8) -> None:
        super().__init__()
        if not 0 <= seed < 2**63:
            raise InputError(f"seed is {seed}: set it to a value between 0 and 2^63 - 1.")
        self.config = config
        self.recent = RecentImages(recent_batches)
        self.core = AugmentationCore(config)
        self.register_buffer("seed", torch.tensor(seed), persistent=False)

    def remember(self, batch: Batch, epoch: int) -> None:
        """Add a batch to the mosaic partners of later batches in the epoch."""
        self.recent.write(batch, _scalar(epoch, torch.int64, batch.images.device))

    def compile_core(self, **options: Any) -> None:
        """Compile all but the bookkeeping of recent images in place, with options of ``torch.compile``.

        Necessary on a GPU, which would otherwise launch hundreds of small kernels per batch. A CPU gets its
        pixels from OpenCV, unless this is called.
        """
        self.core.compile(fullgraph=True, dynamic=False, **options)

    @torch.no_grad()
    def forward(
        self,
        batch: Batch,
        epoch: int | Tensor,
        mosaic: bool | Tensor = True,
        *,
        size: int | None = None,
        rect: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Augment a batch, without waiting for the device.

        Args:
            batch: B letterboxed images of S x S px with N label rows.
            epoch: 0 or more, a number or a 0-d tensor.
            mosaic: False makes no mosaics (``close_mosaic``), with the same shapes.
            size: Side of the result in px, in place of S; see ``multi_scale.draw_size``.
            rect: The images may be rectangles of H x W px, the longer side being S, and so is the result. One
                graph serves all of them. Only without mosaics.

        Returns:
            Images float32 (B, 3, S, S), 0..1, channels last; targets float32 (B, N', 5): class, x1, y1, x2,
            y2 in px; and the mask of their real rows, bool (B, N'). N' is 4 N, or 8 N if mixup or cutmix is
            possible:
            room for every label of every tile. Real rows come first, the others are zero.
        """
        device, (height, width) = batch.images.device, batch.images.shape[2:]
        side, window = width, None
        if rect:  # rendered as a square, with the rectangle in its middle
            side = max(height, width)
            batch = on_canvas(batch, side, side)
            window = torch.stack([_scalar(length, torch.float32, device) for length in (width, height)])
        epoch_now = _scalar(epoch, torch.int64, device)
        buffers, rows, filled = self.recent.write(batch, epoch_now)
        allowed, more = _scalar(mosaic, torch.float32, device), () if window is None else (window,)
        images, targets, mask = self.core(
            buffers, rows, filled, batch.index, self.seed.to(device), epoch_now, allowed, side, *more
        )
        if rect and height != width:
            left, top = (side - width) // 2, (side - height) // 2
            images = images[:, :, top : top + height, left : left + width]
            images = images.contiguous(memory_format=torch.channels_last)
            targets = move_boxes(targets, mask, -left, -top, height, width)
        if size is not None and size != side:
            images, targets = resize(images, targets, size)
        return images, targets, mask


class AugmentationCore(nn.Module):
    """The compilable part of ``Augmentation``, a pure function of tensors."""

    def __init__(self, config: AugmentationConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        recent: RecentBuffers,
        rows: Tensor,
        filled: Tensor,
        index: Tensor,
        seed: Tensor,
        epoch: Tensor,
        mosaic: Tensor,
        size: int,
        window: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Augment the images in ``rows`` (B,) of ``recent``; see ``Augmentation.forward``.

        ``window`` float32 (2,), width and height in px, is the part of the image that is used, in its middle.
        """
        uniform = uniforms(seed, epoch, index, SampleStream.END)  # (B, SampleStream.END)
        views, finish = plan(self.config, uniform, recent, rows, filled, mosaic, size, window)
        labels = [carry_labels(recent, view, finish, size, window) for view in views]
        if self.config.cutmix > 0:
            labels, finish = cut_out(labels, uniform, finish, size)
        targets, mask = join_labels(labels, finish)
        if rows.device.type == "cpu" and not torch.compiler.is_compiling():
            images = normalise(render_on_cpu(self.config, recent.pixels, views, finish, size))
        else:
            images = render_on_device(self.config, recent.pixels, views, finish, size)
        return images.permute(0, 3, 1, 2), targets, mask  # (B, S, S, 3) -> (B, 3, S, S), channels last


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
    size: int,
    window: Tensor | None = None,
) -> tuple[list[View], Finish]:
    """Decide everything about each sample before a pixel is touched.

    Args:
        uniform: float32 (B, SampleStream.END).
        rows: int64 (B,), ring row of each sample; the last is the newest in the ring.
        filled: int64 (), number of rows to draw from, counted back from the newest.
        mosaic: float32 (), 1 if mosaics are allowed, else 0.

    Returns:
        One view, or two if mixup or cutmix is possible; and the later steps.
    """
    is_mosaic = uniform[:, SampleStream.MOSAIC] < config.mosaic * mosaic
    is_cut = is_mosaic & (uniform[:, SampleStream.CUTMIX] < config.cutmix)
    is_mixed = is_mosaic & ~is_cut & (uniform[:, SampleStream.MIXUP] < config.mixup)
    views, capacity = [], recent.label_count.shape[0]
    for number in range(config.views):
        draws = uniform[:, number * VIEW_STREAMS : (number + 1) * VIEW_STREAMS]
        own = rows if number == 0 else recent_row(draws[:, ViewStream.MAIN], rows[-1], filled, capacity)
        tiles = choose_tiles(draws, own, rows[-1], filled, capacity)
        layout = lay_out(draws, tiles, own, recent.content, is_mosaic, size)
        views.append(View(layout, draw_warp(config, draws, layout.canvas, size, window)))
    ratio = beta_32_32(uniform[:, SampleStream.BETA : SampleStream.BETA + BETA_DRAWS])
    colour = [
        between(1 - extent, 1 + extent, uniform[:, SampleStream.COLOUR + channel])
        for channel, extent in enumerate((config.hsv_h, config.hsv_s, config.hsv_v))
    ]
    finish = Finish(
        is_mixed=is_mixed,
        is_cut=is_cut,
        area=uniform.new_zeros(len(uniform), 4),
        blend=torch.where(is_mixed, ratio, torch.ones_like(ratio)),
        gains=torch.stack(colour, dim=1),
        flip_x=uniform[:, SampleStream.FLIP_LEFT_RIGHT] < config.flip_left_right,
        flip_y=uniform[:, SampleStream.FLIP_UP_DOWN] < config.flip_up_down,
        swap=uniform[:, SampleStream.BGR] < config.bgr,
    )
    return views, finish


def carry_labels(
    recent: RecentBuffers, view: View, finish: Finish, size: int, window: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Warp, clip, filter and flip the labels of all tiles of a view.

    Returns:
        float32 (B, 4 N, 5) and the mask of real rows, bool (B, 4 N).
    """
    layout, warp = view
    targets = recent.targets[layout.rows]  # (B, 4, N, 5)
    capacity = targets.shape[2]
    real = row_mask(recent.label_count[layout.rows].flatten(), capacity).view(-1, 4, capacity)
    real = real & (layout.extent > 0).all(dim=-1)[:, :, None]
    before = canvas_boxes(targets[..., 1:], layout).flatten(1, 2)  # (B, 4N, 4)
    after, in_front = warp_boxes(before, warp.forward, size, window)
    mask = real.flatten(1) & in_front & is_candidate(before * warp.scale[:, None, None], after)
    x1, y1, x2, y2 = after.unbind(-1)
    flip_x, flip_y = finish.flip_x[:, None], finish.flip_y[:, None]
    x1, x2 = torch.where(flip_x, size - x2, x1), torch.where(flip_x, size - x1, x2)
    y1, y2 = torch.where(flip_y, size - y2, y1), torch.where(flip_y, size - y1, y2)
    return torch.stack((targets[..., 0].flatten(1, 2), x1, y1, x2, y2), dim=-1), mask


def cut_out(
    labels: list[tuple[Tensor, Tensor]], uniform: Tensor, finish: Finish, size: int
) -> tuple[list[tuple[Tensor, Tensor]], Finish]:
    """Choose the rectangle of cutmix; the labels of the second view then are those in it, for its samples."""
    (first, is_first), (second, is_second) = labels
    area = choose_area(uniform, first[..., 1:], is_first, size) * finish.is_cut[:, None]
    boxes, is_pasted, area = paste(area, second[..., 1:], is_second)
    is_cut = finish.is_cut[:, None]
    pasted = torch.where(is_cut[..., None], torch.cat((second[..., :1], boxes), dim=-1), second)
    return [(first, is_first), (pasted, torch.where(is_cut, is_pasted, is_second))], finish._replace(
        area=area
    )


def join_labels(labels: list[tuple[Tensor, Tensor]], finish: Finish) -> tuple[Tensor, Tensor]:
    """The labels of all views that a sample uses.

    Returns:
        float32 (B, N', 5) and the mask of real rows, bool (B, N'), N' = 4 N for each view. Real rows come
        first, the others are zero.
    """
    table = torch.cat([targets for targets, _ in labels], dim=1)  # (B, N', 5)
    is_used = (finish.is_mixed | finish.is_cut)[:, None]
    mask = torch.cat([mask if n == 0 else mask & is_used for n, (_, mask) in enumerate(labels)], dim=1)
    order = torch.argsort(mask.to(torch.uint8), dim=1, descending=True, stable=True)
    mask = mask.gather(1, order)
    table = table.gather(1, order[:, :, None].expand_as(table))
    return torch.where(mask[:, :, None], table, torch.zeros_like(table)), mask


def render_on_device(
    config: AugmentationConfig, pixels: Tensor, views: list[View], finish: Finish, size: int
) -> Tensor:
    """Draw planned images from ``RecentBuffers.pixels``: float32 (B, S, S, 3), 0..1; S = ``size`` px."""
    y = torch.arange(size, device=pixels.device)
    drawn = []
    for layout, warp in views:
        canvas_x, canvas_y = canvas_coordinates(
            warp.inverse, finish.flip_x, finish.flip_y, y, size, config.axis_aligned
        )
        drawn.append(sample(pixels, find_footprint(layout, canvas_x, canvas_y, size)))
    planes = drawn[0]
    if len(drawn) > 1:
        weight = finish.blend[:, None, None]
        if config.cutmix > 0:
            weight = weight * outside(finish.area, y, size)
        planes = [(a * weight + b * (1 - weight)).floor() for a, b in zip(*drawn, strict=True)]
    if config.changes_colour:
        planes = change_hsv(planes, finish.gains)
    if config.bgr > 0:
        red, green, blue = planes
        change = (blue - red) * finish.swap[:, None, None]
        planes = [red + change, green, blue - change]
    return torch.stack([plane / 255 for plane in planes], dim=-1)


def _scalar(value: float | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A 0-d tensor filled on the device: copying it there would wait for the device."""
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype, non_blocking=True)
    return torch.full((), value, dtype=dtype, device=device)
