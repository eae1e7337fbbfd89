"""The worst mistakes of a validation: false positives and missed annotations."""

from __future__ import annotations

import bisect
from typing import NamedTuple

import numpy as np

from ...evaluation.coco_matching import pair_iou
from .draw_boxes import Floats
from .views import EvaluatedImage, ImageView, cut_view, surroundings

IOU_THRESHOLD = 0.5
"""A detection finds an annotation of its class from this overlap on."""
VIEW_PX = 384
"""Longest side of a view that is kept; larger views are scaled down."""


class MistakeRows(NamedTuple):
    """The mistakes of one image."""

    false_positives: list[int]
    """Rows of the detections that found no annotation of their class, by falling score."""
    missed: list[int]
    """Rows of the annotations that no detection found, by falling area; without crowds."""


def find_mistakes(detections: Floats, truth: Floats) -> MistakeRows:
    """Match the detections of one image as COCO does at an IoU of 0.5.

    By falling score, each detection takes the free annotation of its class that it overlaps most. A
    detection half inside a crowd of its class is neither right nor wrong.

    Args:
        detections: (n, 6) x1, y1, x2, y2 in px, score, class.
        truth: (m, 7) class, x1, y1, x2, y2 in px, area in px^2, 1.0 for a crowd.
    """
    crowd = truth[:, 6] > 0
    row, column = np.nonzero(detections[:, 5, None] == truth[None, :, 0])
    iou = pair_iou(
        detections[row, :4].astype(np.float64), truth[column, 1:5].astype(np.float64), crowd[column]
    )
    near = iou >= IOU_THRESHOLD
    row, column = row[near], column[near]
    order = np.lexsort((column, -iou[near], row, -detections[row, 4]))
    row, column = row[order], column[order]
    right, taken = set[int](), set[int]()
    for i, j in zip(row.tolist(), column.tolist(), strict=True):
        if i not in right and j not in taken and not crowd[j]:
            right.add(i)
            taken.add(j)
    not_wrong = right.union(row[crowd[column]].tolist())
    scores, areas = detections[:, 4].tolist(), truth[:, 5].tolist()
    wrong = [i for i in range(len(scores)) if i not in not_wrong]
    missed = [j for j in np.flatnonzero(~crowd).tolist() if j not in taken]
    return MistakeRows(
        sorted(wrong, key=scores.__getitem__, reverse=True),
        sorted(missed, key=areas.__getitem__, reverse=True),
    )


class Mistake(NamedTuple):
    """One false positive or missed annotation, with its surroundings."""

    is_missed: bool
    row: int
    """Row of ``truth`` if it was missed, else of ``detections``."""
    detections: Floats
    """(n, 6) of the image, as of ``EvaluatedImage``."""
    truth: Floats
    """(m, 7) of the image, as of ``EvaluatedImage``."""
    overlap: Floats
    """IoU with the annotations (m,), or of a missed annotation with the detections (n,), of any class."""
    view: ImageView
    position: int
    """Position of the image in its data set."""
    image_id: int

    @property
    def box(self) -> Floats:
        """(4,) xyxy in px of the original image."""
        return self.truth[self.row, 1:5] if self.is_missed else self.detections[self.row, :4]


def cut_mistake(image: EvaluatedImage, row: int, is_missed: bool) -> Mistake:
    """Copy a mistake and its surroundings off the device.

    Args:
        image: the image with the mistake.
        row: row of its truth if it was missed, else of its detections.
        is_missed: whether it is a missed annotation.
    """
    boxes, others = image.detections[:, :4], image.truth[:, 1:5]
    if is_missed:
        boxes, others = others, boxes
    same = boxes[row : row + 1].repeat(len(others), axis=0).astype(np.float64)
    view = cut_view(image, surroundings(boxes[row], image.size))
    return Mistake(
        is_missed=is_missed,
        row=row,
        detections=image.detections,
        truth=image.truth,
        overlap=pair_iou(same, others.astype(np.float64), np.zeros(len(others), bool)).astype(np.float32),
        view=view.fit(VIEW_PX) if max(view.image.shape) > VIEW_PX else view,
        position=image.position,
        image_id=image.image_id,
    )


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

    def add(self, image: EvaluatedImage, found: MistakeRows) -> None:
        """Keep the mistakes of an image that are among the worst so far."""
        for row in found.false_positives[: self.most]:
            self._offer(self._false_positives, float(image.detections[row, 4]), image, row)
        for row in found.missed[: self.most]:
            self._offer(self._missed, float(image.truth[row, 5]), image, row)

    def _offer(
        self, kept: list[tuple[float, Mistake]], badness: float, image: EvaluatedImage, row: int
    ) -> None:
        if len(kept) < self.most or badness > kept[-1][0]:
            mistake = cut_mistake(image, row, is_missed=kept is self._missed)
            bisect.insort(kept, (badness, mistake), key=lambda entry: -entry[0])  # of equals, the first stays
            del kept[self.most :]

    def take(self, count: int) -> list[Mistake]:
        """The worst ``count``: half false positives, half missed annotations if there are enough of each."""
        share = max((count + 1) // 2, count - len(self._missed))
        chosen = self._false_positives[:share]
        return [mistake for _, mistake in chosen + self._missed[: count - len(chosen)]]
