"""Augmentation module: from a ``Batch`` of uint8 images to the network's input and its targets.

The steps are pure functions of tensors: plan, carry the labels, draw the pixels.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...errors import InputError
from ..batch import Batch, host_labels, image_size, move_boxes, on_canvas, packed_places
from ..image_size import Size
from ..letterbox import width_and_height
from .bilinear import canvas_coordinates, find_footprint, sample
from .colour import change_hsv
from .config import AugmentationConfig
from .cutmix import choose_area, outside, paste
from .mosaic import canvas_boxes, count_labels, draw_fates
from .multi_scale import resize
from .opencv import render_on_cpu
from .plan import Finish, View, plan
from .randomness import SampleStream, uniforms
from .recent_images import RecentBuffers, RecentImages, Written
from .warp import is_candidate, warp_boxes

_USUAL_MARGIN = 1.5
"""Part of the mean number of labels that has room in every batch."""
_ROOM_STEP = 4
"""Factor from one size of the table of labels to the next: each is a graph to compile."""


def label_room(labels: int, images: int, labels_per_image: float, most: int) -> int:
    """Rows of the table for the labels of a batch, one of few sizes.

    The least size is a power of two with room for 1.5 times the labels that ``images`` mosaics of four images
    have on average; so most batches have that size. The others are 4, 16, 64 ... times as large; one that is
    over a quarter of the largest is the largest.

    Args:
        labels: most labels that the batch can have.
        images: B.
        labels_per_image: mean number of labels of an image in the data set.
        most: rows that are always enough; the largest size.
    """
    usual = max(16, math.ceil(_USUAL_MARGIN * 4 * labels_per_image * images))
    room = 1 << (usual - 1).bit_length()
    while room < labels:
        room *= _ROOM_STEP
    return room if room * _ROOM_STEP <= most else most


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
        recent_batches: Batches that mosaics draw from at least, the current one included.
        recent_images: Images that mosaics draw from, if that is more than these batches. They take 4 bytes
            per pixel, 128 images of 640 px 0.21 GB; only as many are kept as take 0.4 GB.

    Attributes:
        labels_per_image: Mean number of labels of an image in the data set; see :func:`label_room`.

    Raises:
        InputError: ``seed`` is out of range.
    """

    seed: Tensor

    def __init__(
        self,
        config: AugmentationConfig,
        seed: int = 0,
        recent_batches: int = 8,
        recent_images: int = 128,
    ) -> None:
        super().__init__()
        if not 0 <= seed < 2**63:
            raise InputError(f"seed is {seed}: set it to a value between 0 and 2^63 - 1.")
        self.config = config
        self.labels_per_image = 8.0
        self.recent = RecentImages(recent_batches, recent_images)
        self.plan_core = PlanCore(config)
        self.core = AugmentationCore(config)
        self.register_buffer("seed", torch.tensor(seed), persistent=False)
        self._host_seed = torch.tensor(seed)

    def remember(self, batch: Batch, epoch: int) -> None:
        """Add a batch to the mosaic partners of later batches in the epoch."""
        self.recent.write(batch, epoch)

    def compile_core(self, **options: Any) -> None:
        """Compile all but the bookkeeping of recent images in place, with options of ``torch.compile``.

        Necessary on a GPU, which would otherwise launch hundreds of small kernels per batch. A CPU gets its
        pixels from OpenCV, unless this is called.
        """
        self.core.compile(fullgraph=True, dynamic=False, **options)
        self.plan_core.compile(fullgraph=True, dynamic=False, **options)

    def room(self, batch: Batch, written: Written, epoch: int, mosaic: bool) -> int:
        """Rows for the labels of a batch, known on the host: partners follow from (seed, epoch, index)."""
        uniform = uniforms(self._host_seed, torch.tensor(epoch), host_labels(batch).index, SampleStream.END)
        capacity, views = len(self.recent.counts), self.config.views
        fates = draw_fates(
            self.config,
            uniform,
            written.rows(torch.device("cpu")),
            torch.tensor(written.filled),
            torch.tensor(float(mosaic)),
            capacity,
        )
        images, most = written.images, written.images * views * 4 * batch.targets.shape[1]
        return label_room(count_labels(fates, self.recent.counts), images, self.labels_per_image, most)

    @torch.no_grad()
    def forward(
        self,
        batch: Batch,
        epoch: int,
        mosaic: bool = True,
        *,
        size: Size | None = None,
        rect: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Augment a batch, without waiting for the device.

        Args:
            batch: B letterboxed images of H x W px with N label rows.
            epoch: 0 or more.
            mosaic: False makes no mosaics (``close_mosaic``), with the same shapes.
            size: Height and width of the result in px, in place of H and W; see ``multi_scale.draw_size``.
            rect: H and W differ from batch to batch, and the longer one is always the same. One graph serves
                all of them. Only without mosaics.

        Returns:
            Images float32 (B, 3, H, W), 0..1, channels last; targets float32 (R, 6): image (0 .. B-1), class,
            x1, y1, x2, y2 in px; and the mask of their real rows, bool (R,). R is :func:`label_room`, enough
            for every label. Rows are in the order of the images, the others are zero.
        """
        device, (height, width) = batch.images.device, batch.images.shape[2:]
        whole, window = image_size(batch), None
        if rect:  # rendered as a square, with the rectangle in its middle
            whole, window = (max(whole), max(whole)), width_and_height(whole, batch.letterbox)
            batch = on_canvas(batch, *whole)
        written = self.recent.write(batch, epoch)
        room = self.room(batch, written, epoch, mosaic)
        more = () if window is None else (window,)
        views, finish, targets, mask = self.plan_core(
            written.buffers,
            written.rows(device),
            _scalar(written.filled, torch.int64, device),
            batch.index,
            self.seed.to(device),
            _scalar(epoch, torch.int64, device),
            _scalar(mosaic, torch.float32, device),
            whole,
            room,
            *more,
        )
        images = self.core(written.buffers.pixels, views, finish, whole)
        if rect and height != width:
            left, top = (whole[1] - width) // 2, (whole[0] - height) // 2
            images = images[:, :, top : top + height, left : left + width]
            images = images.contiguous(memory_format=torch.channels_last)
            targets = move_boxes(targets, mask, -left, -top, height, width)
        if size is not None and size != whole:
            images, targets = resize(images, targets, size)
        return images, targets, mask


class PlanCore(nn.Module):
    """The plan of a batch and its labels, a pure function of tensors that compiles to one graph a room."""

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
        size: Size,
        room: int,
        window: Tensor | None = None,
    ) -> tuple[list[View], Finish, Tensor, Tensor]:
        """Decide about the images in ``rows`` (B,) of ``recent``, and carry their labels.

        ``window`` float32 (2,), width and height in px, is the part of the image that is used, in its middle.

        Returns:
            The views of each sample, the steps after them, and targets and mask of ``Augmentation.forward``.
        """
        uniform = uniforms(seed, epoch, index, SampleStream.END)  # (B, SampleStream.END)
        views, finish = plan(self.config, uniform, recent, rows, filled, mosaic, size, window)
        labels, view = carry_labels(recent, views, finish, size, room, window)
        if self.config.cutmix > 0:
            labels, finish = cut_out(labels, view, uniform, finish, size)
        targets = torch.cat((labels.image[:, None].float(), labels.label[:, None], labels.box), dim=1)
        return views, finish, torch.where(labels.mask[:, None], targets, 0.0), labels.mask


class AugmentationCore(nn.Module):
    """The pixels of a batch, a pure function of tensors that compiles to one graph."""

    def __init__(self, config: AugmentationConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, pixels: Tensor, views: list[View], finish: Finish, size: Size) -> Tensor:
        """Images of ``Augmentation.forward`` from ``RecentBuffers.pixels``."""
        if pixels.device.type == "cpu" and not torch.compiler.is_compiling():
            images = normalise(render_on_cpu(self.config, pixels, views, finish, size))
        else:
            images = render_on_device(self.config, pixels, views, finish, size)
        return images.permute(0, 3, 1, 2)  # (B, H, W, 3) -> (B, 3, H, W), channels last


class Labels(NamedTuple):
    """R rows with the labels of all samples, in the order of samples, views and tiles."""

    image: Tensor  # int64 (R,), sample
    label: Tensor  # float32 (R,), class
    box: Tensor  # float32 (R, 4), xyxy in px
    mask: Tensor  # bool (R,), False for rows that are no label (any more)


def carry_labels(
    recent: RecentBuffers,
    views: list[View],
    finish: Finish,
    size: Size,
    room: int,
    window: Tensor | None = None,
) -> tuple[Labels, Tensor]:
    """Warp, clip, filter and flip the labels of all tiles of the views that a sample uses.

    Returns:
        The labels in R = ``room`` rows, and the view of each row, int64 (R,).
    """
    rows = torch.stack([view.layout.rows for view in views], dim=1)  # (B, V, 4)
    is_shown = torch.stack([(view.layout.extent > 0).all(dim=-1) for view in views], dim=1)  # (B, V, 4)
    is_used = (finish.is_mixed | finish.is_cut)[:, None].expand(-1, len(views)).clone()  # (B, V)
    is_used[:, 0] = True
    count = recent.label_count[rows] * (is_shown & is_used[..., None])  # (B, V, 4)
    place, number, real = packed_places(count.flatten(), room)  # (R,) each
    targets = recent.targets[rows.flatten()[place], number]  # (R, 5)
    image, view = place // (4 * len(views)), place // 4 % len(views)

    def of_row(tensors: list[Tensor]) -> Tensor:
        """Values of each row's view, (R, ...), from those of the samples (B, ...) in each view."""
        return torch.stack(tensors, dim=1)[image, view]

    shift = torch.stack([view.layout.shift for view in views], dim=1).view(-1, 2)[place]  # (R, 2)
    before = canvas_boxes(targets[:, 1:], shift, of_row([view.layout.canvas for view in views]))
    forward = of_row([view.warp.forward for view in views])  # (R, 3, 3)
    after, in_front = (each[:, 0] for each in warp_boxes(before[:, None], forward, size, window))
    scale = of_row([view.warp.scale for view in views])
    mask = real & in_front & is_candidate(before * scale[:, None], after)
    x1, y1, x2, y2 = after.unbind(-1)
    height, width = size
    flip_x, flip_y = finish.flip_x[image], finish.flip_y[image]
    x1, x2 = torch.where(flip_x, width - x2, x1), torch.where(flip_x, width - x1, x2)
    y1, y2 = torch.where(flip_y, height - y2, y1), torch.where(flip_y, height - y1, y2)
    return Labels(image, targets[:, 0], torch.stack((x1, y1, x2, y2), dim=-1), mask), view


def cut_out(
    labels: Labels, view: Tensor, uniform: Tensor, finish: Finish, size: Size
) -> tuple[Labels, Finish]:
    """Choose the rectangle of cutmix; the labels of the second view then are those in it, for its samples."""
    image, _, box, mask = labels
    area = choose_area(uniform, image, box, mask & (view == 0), size) * finish.is_cut[:, None]
    boxes, is_pasted, area = paste(area, image, box, mask & (view == 1))
    is_cut = finish.is_cut[image] & (view == 1)
    labels = labels._replace(
        box=torch.where(is_cut[:, None], boxes, box), mask=torch.where(is_cut, is_pasted, mask)
    )
    return labels, finish._replace(area=area)


def render_on_device(
    config: AugmentationConfig, pixels: Tensor, views: list[View], finish: Finish, size: Size
) -> Tensor:
    """Draw planned images from ``RecentBuffers.pixels``: float32 (B, H, W, 3), 0..1; ``size`` is H and W."""
    y = torch.arange(size[0], device=pixels.device)
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
            weight = weight * outside(finish.area, y, size[1])
        planes = [(a * weight + b * (1 - weight)).floor() for a, b in zip(*drawn, strict=True)]
    if config.changes_colour:
        planes = change_hsv(planes, finish.gains)
    if config.bgr > 0:
        red, green, blue = planes
        change = (blue - red) * finish.swap[:, None, None]
        planes = [red + change, green, blue - change]
    return torch.stack([plane / 255 for plane in planes], dim=-1)


def _scalar(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A 0-d tensor filled on the device: copying it there would wait for the device."""
    return torch.full((), value, dtype=dtype, device=device)
