"""The worst mistakes of a validation: false positives and missed annotations."""

from __future__ import annotations

import bisect
from typing import NamedTuple

import numpy as np

from ...evaluation.overlaps import overlapping_pairs
from .draw_boxes import Floats
from .views import EvaluatedImage, ImageView, cut_view, surroundings

IOU_THRESHOLD = 0.5
"""A detection finds an annotation of its class from this overlap on."""
VIEW_PX = 384
"""Longest side of a view that is kept; larger views are scaled down."""


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
    view: ImageView

    @property
    def box(self) -> Floats:
        """(4,) xyxy in px of the original image."""
        return self.image.truth[self.row, 1:5] if self.is_missed else self.image.detections[self.row, :4]


def cut_mistake(image: EvaluatedImage, row: int, is_missed: bool) -> Mistake:
    """Copy a mistake (see :class:`Mistake`) and its surroundings off the device."""
    box = image.truth[row, 1:5] if is_missed else image.detections[row, :4]
    view = cut_view(image, surroundings(box, image.size))
    view = view.fit(VIEW_PX) if max(view.image.shape) > VIEW_PX else view
    return Mistake(image.without_pixels(), row, is_missed, view)


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
