"""Validated images with their detections, and copies of parts of them off the device."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...data.batch import Batch
from ...data.letterbox import to_letterbox
from .draw_boxes import Floats, Pixels

SCORE_THRESHOLD = 0.25
"""Lowest score of detections that are shown, as for ``predict``."""


class EvaluatedImage(NamedTuple):
    """An image of a validation batch with its detections."""

    pixels: Tensor
    """uint8 (3, H, W), letterboxed, on the device that the batch is on."""
    letterbox: Floats
    """(4,) gain_x, gain_y, pad_x, pad_y."""
    size: tuple[int, int]
    """Height and width of the original image in px."""
    position: int
    """Position in its data set."""
    image_id: int
    detections: Floats
    """(n, 6) x1, y1, x2, y2 in px of the original image, score, class, best first."""
    truth: Floats
    """(m, 7) class, x1, y1, x2, y2 in px of the original image, area in px^2, 1.0 for a crowd."""

    def without_pixels(self) -> EvaluatedImage:
        """The same without its pixels, which would keep the batch in memory."""
        return self._replace(pixels=self.pixels.new_empty((3, 0, 0), device="cpu"))


class ImageView(NamedTuple):
    """A part of a letterboxed image, on the CPU."""

    image: Pixels
    """RGB (h, w, 3)."""
    letterbox: Floats
    """(4,) gain_x, gain_y, pad_x, pad_y, from px of the original image to px of the part."""

    def place(self, boxes: Floats) -> Floats:
        """Boxes xyxy (n, 4) from px of the original image to px of the view."""
        placed: Floats = to_letterbox(torch.from_numpy(boxes), torch.from_numpy(self.letterbox)).numpy()
        return placed

    def fit(self, side_px: int) -> ImageView:
        """The same, scaled so that its longer side is ``side_px``."""
        height, width = self.image.shape[:2]
        scale = side_px / max(height, width)
        new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        scaled = cv2.resize(self.image, (new_width, new_height), interpolation=how)
        image: Pixels = scaled.astype(np.uint8, copy=False)
        gain = np.array([new_width / width, new_height / height] * 2, np.float32)
        return ImageView(image, self.letterbox * gain)


def split_batch(batch: Batch, detections: Tensor, counts: Tensor) -> list[EvaluatedImage]:
    """Split a validated batch into its images; waits for the device.

    The pixels share the memory of the batch.

    Args:
        batch: B images.
        detections: float (B, D, 6) as of ``evaluation.detect``.
        counts: int64 (B,), rows of ``detections`` that are not padding.
    """
    tables = (detections, counts, batch.truth, batch.truth_count, batch.letterbox)
    found, found_count, truth, truth_count, letterbox = (table.detach().cpu().numpy() for table in tables)
    places = zip(batch.original_sizes.tolist(), batch.index.tolist(), batch.image_ids.tolist(), strict=True)
    images = []
    for i, (size, position, image_id) in enumerate(places):
        rows = found[i, : found_count[i]]
        images.append(
            EvaluatedImage(
                pixels=batch.images[i],
                letterbox=letterbox[i].copy(),
                size=(size[0], size[1]),
                position=position,
                image_id=image_id,
                detections=rows[rows[:, 4] >= SCORE_THRESHOLD].astype(np.float32),
                truth=truth[i, : truth_count[i]].copy(),
            )
        )
    return images


def cut_view(image: EvaluatedImage, region: npt.NDArray[np.floating] | None = None) -> ImageView:
    """Copy a part of an image to the CPU; waits for the device.

    Args:
        image: an image of a batch.
        region: (4,) xyxy in px of the original image; by default all of it, without the padding.
    """
    height, width = image.size
    wanted = np.array([0, 0, width, height] if region is None else region, np.float32)
    placed = to_letterbox(torch.from_numpy(wanted), torch.from_numpy(image.letterbox)).numpy()
    most_y, most_x = image.pixels.shape[-2:]
    # A thousandth of a pixel is rounding. A view has at least one pixel.
    first = np.floor(placed[:2] + 1e-3).clip(0, (most_x - 1, most_y - 1)).astype(int)
    left, top = first.tolist()
    right, bottom = np.ceil(placed[2:] - 1e-3).clip(first + 1, (most_x, most_y)).astype(int).tolist()
    part = image.pixels[:, top:bottom, left:right].permute(1, 2, 0).contiguous()  # (h, w, 3)
    shift = np.array([0, 0, left, top], np.float32)
    return ImageView(part.cpu().numpy().copy(), image.letterbox - shift)


def surroundings(box: Floats, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """The region around a box: twice its size, at least 0.3 of the image, and inside it.

    It is a square if there is room for one. Boxes (4,) are xyxy in px of the image, ``size`` is its height
    and width in px.
    """
    limit = np.array([size[1], size[0]], np.float64)  # width, height
    low, high = box[:2].astype(np.float64), box[2:].astype(np.float64)
    side = max(2 * float(np.abs(high - low).max()), 0.3 * float(limit.min()))
    extent = np.minimum(side, limit)
    corner = np.clip((low + high) / 2 - extent / 2, 0, limit - extent)
    return np.concatenate((corner, corner + extent))
