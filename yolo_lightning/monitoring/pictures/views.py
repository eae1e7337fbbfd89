"""Validated images with their detections: views of them off the device, and the worst mistakes."""

from __future__ import annotations

import bisect
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...data.batch import Batch
from ...data.letterbox import to_letterbox
from ...evaluation.coco_matching import overlapping_pairs
from .draw_boxes import Floats, Pixels

SCORE_THRESHOLD = 0.25
"""Lowest score of detections that are shown, as for ``predict``."""
IOU_THRESHOLD = 0.5
"""A detection finds an annotation of its class from this overlap on."""
VIEW_PX = 384
"""Longest side of a view that is kept; larger views are scaled down."""


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


def find_mistakes(detections: Floats, truth: Floats) -> tuple[list[int], list[int]]:
    """Match the detections of one image as COCO does at an IoU of 0.5.

    By falling score, each detection takes the free annotation of its class that it overlaps most. A
    detection half inside a crowd of its class is neither right nor wrong.

    Args:
        detections: (n, 6) x1, y1, x2, y2 in px, score, class.
        truth: (m, 7) class, x1, y1, x2, y2 in px, area in px^2, 1.0 for a crowd.

    Returns:
        Rows of the false positives by falling score, and of the missed annotations by falling area; crowds
        are never missed.
    """
    crowd = truth[:, 6] > 0
    found_class, true_class = detections[:, 5].astype(np.int64), truth[:, 0].astype(np.int64)
    row, column, iou = overlapping_pairs(
        found_class, detections[:, :4], true_class, truth[:, 1:5], crowd, IOU_THRESHOLD
    )
    order = np.lexsort((column, -iou, row, -detections[row, 4]))
    row, column = row[order], column[order]
    right, taken = set[int](), set[int]()
    for i, j in zip(row.tolist(), column.tolist(), strict=True):
        if i not in right and j not in taken and not crowd[j]:
            right.add(i)
            taken.add(j)
    right.update(row[crowd[column]].tolist())
    by_score, by_area = (np.argsort(-table, kind="stable") for table in (detections[:, 4], truth[:, 5]))
    wrong = [i for i in by_score.tolist() if i not in right]
    return wrong, [j for j in by_area.tolist() if j not in taken and not crowd[j]]


class Mistake(NamedTuple):
    """One false positive or missed annotation, with its surroundings."""

    image: EvaluatedImage
    """Its image, without pixels."""
    row: int
    """Row of the image's ``truth`` if it was missed, else of its ``detections``."""
    is_missed: bool
    box: Floats
    """(4,) xyxy in px of the original image."""
    view: ImageView


def cut_mistake(image: EvaluatedImage, row: int, is_missed: bool) -> Mistake:
    """Copy a mistake (see :class:`Mistake`) and its surroundings off the device."""
    box = image.truth[row, 1:5] if is_missed else image.detections[row, :4]
    view = cut_view(image, surroundings(box, image.size))
    view = view.fit(VIEW_PX) if max(view.image.shape) > VIEW_PX else view
    return Mistake(image.without_pixels(), row, is_missed, box, view)


class WorstMistakes:
    """Keeps small views of the worst mistakes over many images.

    Args:
        most: false positives to keep, and as many missed annotations.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._false_positives: list[tuple[float, Mistake]] = []
        """(score, mistake), the worst first."""
        self._missed: list[tuple[float, Mistake]] = []
        """(area, mistake), the worst first."""

    def add(self, image: EvaluatedImage) -> None:
        """Keep the mistakes of an image that are among the worst so far."""
        wrong, missed = find_mistakes(image.detections, image.truth)
        for kept, rows, badness in (
            (self._false_positives, wrong, image.detections[:, 4]),
            (self._missed, missed, image.truth[:, 5]),
        ):
            for row in rows[: self.most]:
                if len(kept) < self.most or badness[row] > kept[-1][0]:
                    mistake = cut_mistake(image, row, kept is self._missed)
                    # Of equals, the first stays.
                    bisect.insort(kept, (float(badness[row]), mistake), key=lambda entry: -entry[0])
                    del kept[self.most :]

    def take(self, count: int) -> list[Mistake]:
        """The worst ``count``: half false positives, half missed annotations if there are enough of each."""
        share = max((count + 1) // 2, count - len(self._missed))
        chosen = self._false_positives[:share]
        return [mistake for _, mistake in chosen + self._missed[: count - len(chosen)]]
