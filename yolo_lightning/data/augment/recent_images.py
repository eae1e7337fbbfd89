"""Ring buffer of the most recent images on the training device, the partners of mosaics."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import InputError
from ..batch import Batch, host_labels, image_size
from ..image_size import Size, describe
from ..letterbox import PAD_VALUE

MAX_PIXELS = 2**30  # limit of pixel addresses: int32, half of which ``bilinear`` uses as a marker
SMALL_RING_PX = 10**8
"""Most pixels of a ring that small batches share, so that their mosaics rarely repeat an image: 0.4 GB."""


class RecentBuffers(NamedTuple):
    """R images of H x W px with N label rows each."""

    pixels: Tensor
    """int32 (1 + R*H*W,), packed pixels (red in the low byte, then green, blue). The first is grey; image r
    starts at 1 + r*H*W."""
    targets: Tensor  # float32 (R, N, 5): class, x1, y1, x2, y2 in letterboxed px
    label_count: Tensor  # int64 (R,), real rows of ``targets``
    content: Tensor  # int32 (R, 4): left, top, width, height in px of the image inside its letterbox


class Written(NamedTuple):
    """A batch in the ring."""

    buffers: RecentBuffers
    first: int  # row of the first image
    images: int  # B
    filled: int  # rows, counted back from the newest image, that hold an image of this epoch

    def rows(self, device: torch.device) -> Tensor:
        """Rows of the batch, int64 (B,), the newest last."""
        return (torch.arange(self.images, device=device) + self.first) % len(self.buffers.label_count)


def content_rectangles(letterbox: Tensor, original_sizes: Tensor) -> Tensor:
    """Place of each image inside its letterbox: int32 (B, 4) left, top, width, height in px."""
    sizes = (original_sizes.flip(-1) * letterbox[:, :2]).round().clamp_min(1)  # (B, 2) width, height
    return torch.cat((letterbox[:, 2:].round(), sizes), dim=1).int()


class RecentImages:
    """Ring buffer of packed images and labels, emptied at the start of each epoch.

    The first batch allocates it on its device. The tensors are in no checkpoint, because a new epoch starts
    without them, and no buffers of a module, because DistributedDataParallel would copy those.

    Args:
        batches: batches that it holds at least.
        images: images that it holds, if that is more, as far as they have at most ``SMALL_RING_PX`` px.

    Attributes:
        counts: int64 (R,), real rows of each image's labels, in host memory.
    """

    def __init__(self, batches: int, images: int) -> None:
        self.batches = batches
        self.images = images
        self.state: RecentBuffers | None = None
        self.counts = torch.zeros(0, dtype=torch.int64)
        self._shapes: tuple[object, ...] = ()  # of an image and its labels, and their device
        self.next_row = 0
        self.filled = 0
        self.epoch = -1

    def capacity(self, batch_size: int, size: Size) -> int:
        """Images of ``size`` that it holds for a batch size."""
        return max(batch_size * self.batches, min(self.images, SMALL_RING_PX // math.prod(size)))

    def reset(self) -> None:
        """Forget every image."""
        self.filled = 0

    def write(self, batch: Batch, epoch: int) -> Written:
        """Write a batch over the oldest images; a new epoch forgets all images first.

        A batch of another image size or label capacity starts a new, empty ring.
        """
        images, size = len(batch.images), image_size(batch)
        shapes = batch.images.device, batch.images.shape[1:], batch.targets.shape[1:]
        if self.state is None or shapes != self._shapes or self.capacity(images, size) > len(self.counts):
            self.state, self._shapes = self._allocate(batch), shapes
        state, capacity = self.state, len(self.counts)
        self.filled = min((self.filled if epoch == self.epoch else 0) + images, capacity)
        self.epoch = epoch
        counts = host_labels(batch).count
        first = self.next_row
        self.next_row = (first + images) % capacity
        content = content_rectangles(batch.letterbox, batch.original_sizes)
        before_end = min(images, capacity - first)
        for row, part in ((first, slice(0, before_end)), (0, slice(before_end, images))):
            rows = slice(row, row + part.stop - part.start)
            write_packed(state.pixels, rows, batch.images[part])
            state.targets[rows] = batch.targets[part]
            state.label_count[rows] = batch.count[part]
            self.counts[rows] = counts[part]
            state.content[rows] = content[part]
        return Written(state, first, images, self.filled)

    def _allocate(self, batch: Batch) -> RecentBuffers:
        size = image_size(batch)
        images = self.capacity(len(batch.images), size)
        if images * math.prod(size) >= MAX_PIXELS:
            raise InputError(
                f"a mosaic ring of {self.batches} batches of {batch.images.shape[0]} images of "
                f"{describe(size)} is over 2^30 pixels: lower the batch size."
            )
        device, grey = batch.images.device, PAD_VALUE * 0x010101
        self.next_row = self.filled = 0
        self.counts = torch.zeros(images, dtype=torch.int64)
        return RecentBuffers(
            pixels=torch.full((1 + images * math.prod(size),), grey, dtype=torch.int32, device=device),
            targets=torch.zeros(images, *batch.targets.shape[1:], device=device),
            label_count=torch.zeros(images, dtype=torch.int64, device=device),
            content=torch.zeros(images, 4, dtype=torch.int32, device=device),
        )


def write_packed(pixels: Tensor, rows: slice, images: Tensor) -> None:
    """Pack uint8 images (n, 3, H, W) into rows of a ring: one int32 per pixel, bytes red, green, blue, 0."""
    height, width = images.shape[2:]
    packed = pixels[1:].view(-1, height, width)[rows]
    channels = packed.view(torch.uint8).view(-1, height, width, 4)  # little-endian: the low byte first
    # Channel by channel is twice as fast on a CPU as rows of three bytes.
    for channel in range(3):
        channels[..., channel] = images[:, channel]
