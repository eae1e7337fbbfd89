"""The batch that travels from the loader to the training device."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .image_size import Size
from .letterbox import PAD_VALUE


class HostLabels(NamedTuple):
    """``index`` and ``count`` of a batch in host memory, int64 (B,) each."""

    index: Tensor  # type: ignore[assignment]  # as in ``Batch``
    count: Tensor  # type: ignore[assignment]


class Batch(NamedTuple):
    """Images and labels of fixed shape; B images of H x W pixels with room for N labels each.

    A named tuple: Lightning and torch know how to pin, move and compile it.

    Attributes:
        images: uint8 (B, 3, H, W), RGB, letterboxed, stored channels last (HWC in memory).
        targets: float32 (B, N, 5): class, x1, y1, x2, y2 in pixels of the letterboxed image. Rows
            from ``count`` on are zero.
        count: int64 (B,), rows of ``targets`` that are labels.
        index: int64 (B,), position of each image in its data set (0 .. I-1); with ``data.image_weights`` plus
            I for each time that it has come before in the epoch.
        image_ids: int64 (B,), ids of the index.
        original_sizes: int64 (B, 2), height and width in pixels before letterboxing.
        letterbox: float32 (B, 4): gain_x, gain_y, pad_x, pad_y (see ``letterbox.to_letterbox``).
        truth: float32 (B, M, 7) for evaluation: class, x1, y1, x2, y2 in pixels of the original
            image exactly as annotated, area in px^2, 1.0 for a crowd. M is 0 in training.
        truth_count: int64 (B,), rows of ``truth`` that are annotations.
        on_host: what the host must know of a batch on another device; see :func:`host_labels`.
    """

    images: Tensor
    targets: Tensor
    count: Tensor  # type: ignore[assignment]  # a tuple's method of this name is not used
    index: Tensor  # type: ignore[assignment]  # likewise
    image_ids: Tensor
    original_sizes: Tensor
    letterbox: Tensor
    truth: Tensor
    truth_count: Tensor
    on_host: HostLabels | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with a function applied to each of its tensors, those in host memory included."""
        known = self.on_host and HostLabels(*map(function, self.on_host))
        return Batch._make([*map(function, self[:-1]), known])


def image_size(batch: Batch) -> Size:
    """Height and width of the images of a batch, in px."""
    height, width = batch.images.shape[2:]
    return height, width


def move(batch: Batch, device: torch.device, *, non_blocking: bool = False) -> Batch:
    """The batch on a device. The host keeps a copy of what :func:`host_labels` needs."""
    known = batch.on_host
    if known is None and batch.count.device.type == "cpu":
        known = HostLabels(batch.index.clone(), batch.count.clone())
    moved = batch.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))
    return moved._replace(on_host=known)


def host_labels(batch: Batch) -> HostLabels:
    """Index and count of a batch; waits for its device only if it came there without :func:`move`."""
    return batch.on_host or HostLabels(batch.index.cpu(), batch.count.cpu())


def row_mask(count: Tensor, capacity: int) -> Tensor:
    """Mask bool (B, N) of the first ``count`` (B,) rows of tables padded to N = ``capacity`` rows."""
    return torch.arange(capacity, device=count.device) < count[:, None]


def packed_places(count: Tensor, room: int) -> tuple[Tensor, Tensor, Tensor]:
    """Places of the rows of S lists with ``count`` (S,) rows each in one table of R = ``room`` rows.

    Returns:
        For each row of the table its list and its row in that list, int64 (R,) each, both within bounds; and
        whether there is such a row, bool (R,).
    """
    ends = count.cumsum(0)
    row = torch.arange(room, device=count.device)
    place = torch.searchsorted(ends, row, right=True)  # (R,), S beyond the last list
    real = place < len(count)
    place = place.clamp_max(len(count) - 1)
    return place, torch.where(real, row - (ends - count)[place], 0), real


def pack_labels(targets: Tensor, count: Tensor, room: int) -> tuple[Tensor, Tensor]:
    """The labels of padded tables (B, N, 5), one after the other in one table of R = ``room`` rows.

    Returns:
        float32 (R, 6) image, class, x1, y1, x2, y2, zero beyond the labels; and bool (R,), which are labels.
    """
    image, row, real = packed_places(count, room)
    table = torch.cat((image[:, None].to(targets.dtype), targets[image, row]), dim=1)
    return torch.where(real[:, None], table, 0.0), real


def label_capacity(most: int) -> int:
    """Rows to reserve for ``most`` labels: a power of two, at least 16, for few distinct compiled graphs."""
    return max(16, 1 << max(most - 1, 0).bit_length())


def on_canvas(batch: Batch, height: int, width: int) -> Batch:
    """A batch whose images are cut, or padded with grey, to ``height`` x ``width`` px around their middle.

    Both differ from before by an even number of px. Boxes are clipped to the new canvas.
    """
    left, top = (width - batch.images.shape[-1]) // 2, (height - batch.images.shape[-2]) // 2
    real = row_mask(batch.count, batch.targets.shape[1])
    gain, pad_x, pad_y = batch.letterbox.split((2, 1, 1), dim=1)
    return batch._replace(
        images=F.pad(batch.images, (left, left, top, top), value=PAD_VALUE),
        targets=move_boxes(batch.targets, real, left, top, height, width),
        letterbox=torch.cat((gain, pad_x + left, pad_y + top), dim=1),
    )


def move_boxes(targets: Tensor, real: Tensor, left: int, top: int, height: int, width: int) -> Tensor:
    """Targets (..., D), x1, y1, x2, y2 last, moved by ``left`` and ``top`` px, clipped; 0 if not ``real``."""
    x1, y1, x2, y2 = targets[..., -4:].unbind(-1)
    x1, x2 = ((x + left).clamp(0, width) for x in (x1, x2))
    y1, y2 = ((y + top).clamp(0, height) for y in (y1, y2))
    moved = torch.cat((targets[..., :-4], torch.stack((x1, y1, x2, y2), dim=-1)), dim=-1)
    return torch.where(real[..., None], moved, torch.zeros_like(moved))
