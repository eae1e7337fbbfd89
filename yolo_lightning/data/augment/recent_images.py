"""The most recent images, kept on the training device as partners for mosaics."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import InputError
from ..batch import Batch
from ..letterbox import PAD_VALUE

MAX_PIXELS = 2**30
"""Pixel addresses are int32, of which the sampler uses half as a marker."""


class RecentBuffers(NamedTuple):
    """R images of S x S pixels with N label rows each.

    Attributes:
        pixels: int32 (1 + R*S*S,), one packed pixel each (red in the low byte, then green, blue).
            The first is grey (``PAD_VALUE``); image r starts at 1 + r*S*S.
        targets: float32 (R, N, 5): class, x1, y1, x2, y2 in letterboxed pixels.
        label_count: int64 (R,), real rows of ``targets``.
        content: int32 (R, 4): left, top, width, height in px of the image inside its letterbox.
    """

    pixels: Tensor
    targets: Tensor
    label_count: Tensor
    content: Tensor


def content_rectangles(letterbox: Tensor, original_sizes: Tensor) -> Tensor:
    """Where each image lies inside its letterbox: int32 (B, 4) left, top, width, height in px."""
    sizes = (original_sizes.flip(-1) * letterbox[:, :2]).round().clamp_min(1)  # (B, 2) width, height
    return torch.cat((letterbox[:, 2:].round(), sizes), dim=1).int()


class RecentImages:
    """A circular buffer of packed images and labels, empty at the start of each epoch.

    It is allocated by the first batch, at ``recent_batches`` times its size, on that batch's device. Its
    tensors are in no checkpoint: emptied at each epoch, it holds nothing that a resumed run would miss.
    Nor are they buffers of a module, which DistributedDataParallel would copy from rank to rank.

    Args:
        recent_batches: batches to keep, the current one included.

    Raises:
        InputError: if it is less than 1.
    """

    def __init__(self, recent_batches: int) -> None:
        if recent_batches < 1:
            raise InputError(f"recent_batches is {recent_batches}: keep at least 1 batch.")
        self.batches = recent_batches
        self.state: RecentBuffers | None = None
        self.next_row = 0
        self.filled = torch.zeros((), dtype=torch.int64)
        self.epoch = torch.full((), -1, dtype=torch.int64)

    def reset(self) -> None:
        """Forget every image."""
        self.filled.zero_()

    def write(self, batch: Batch, epoch: Tensor) -> tuple[RecentBuffers, Tensor, Tensor]:
        """Take in a batch, over the oldest images; an epoch that is new empties the ring first.

        A batch of another image size or label capacity starts a new, empty ring.

        Args:
            batch: B images.
            epoch: int64 (), on the batch's device.

        Returns:
            The buffers; the rows that the batch took, int64 (B,), the last of them the newest; and
            how many rows, counted back from the newest, hold an image of this epoch, int64 ().
        """
        state = self.state
        if state is None or not self._fits(state, batch):
            state = self.state = self._allocate(batch)
        images, capacity = batch.images.shape[0], state.label_count.shape[0]
        # A comparison on the device: reading the epoch here would wait for the device.
        self.filled.mul_(epoch == self.epoch).add_(images).clamp_(max=capacity)
        self.epoch.copy_(epoch)
        first = self.next_row
        self.next_row = (first + images) % capacity
        content = content_rectangles(batch.letterbox, batch.original_sizes)
        before_end = min(images, capacity - first)
        for row, part in ((first, slice(0, before_end)), (0, slice(before_end, images))):
            rows = slice(row, row + part.stop - part.start)
            write_packed(state.pixels, rows, batch.images[part])
            state.targets[rows] = batch.targets[part]
            state.label_count[rows] = batch.count[part]
            state.content[rows] = content[part]
        return state, (torch.arange(images, device=epoch.device) + first) % capacity, self.filled

    def _fits(self, state: RecentBuffers, batch: Batch) -> bool:
        size, images = batch.images.shape[-1], state.label_count.shape[0]
        return (
            state.pixels.device == batch.images.device
            and state.pixels.numel() == 1 + images * size * size
            and state.targets.shape[1:] == batch.targets.shape[1:]
            and batch.images.shape[0] * self.batches <= images
        )

    def _allocate(self, batch: Batch) -> RecentBuffers:
        images, size = batch.images.shape[0] * self.batches, batch.images.shape[-1]
        if images * size * size >= MAX_PIXELS:
            raise InputError(
                f"a mosaic ring of {self.batches} batches of {batch.images.shape[0]} images of "
                f"{size} px is over 2^30 pixels: lower the batch size or recent_batches."
            )
        device, grey = batch.images.device, PAD_VALUE * 0x010101
        self.next_row = 0
        self.filled = torch.zeros((), dtype=torch.int64, device=device)
        self.epoch = torch.full((), -1, dtype=torch.int64, device=device)
        return RecentBuffers(
            pixels=torch.full((1 + images * size * size,), grey, dtype=torch.int32, device=device),
            targets=torch.zeros(images, *batch.targets.shape[1:], device=device),
            label_count=torch.zeros(images, dtype=torch.int64, device=device),
            content=torch.zeros(images, 4, dtype=torch.int32, device=device),
        )


def write_packed(pixels: Tensor, rows: slice, images: Tensor) -> None:
    """Pack uint8 images (n, 3, S, S) into rows of a ring: bytes red, green, blue, 0 of one int32 a pixel."""
    size = images.shape[-1]
    squares = pixels[1:].view(-1, size, size)[rows]
    channels = squares.view(torch.uint8).view(-1, size, size, 4)  # little-endian: the low byte first
    # Channel by channel is twice as fast on a CPU as rows of three bytes.
    for channel in range(3):
        channels[..., channel] = images[:, channel]
