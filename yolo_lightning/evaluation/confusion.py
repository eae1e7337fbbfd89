"""Confusion matrix of classic YOLOv5, for a whole data set at once.

The rules are those of ``ConfusionMatrix`` in ultralytics/yolov5 v7.0 (``utils/metrics.py``), with two
differences. Background false positives count in every image (yolov5: only in images with a match). Crowds,
which yolov5 does not know, are never missed, and detections within them are never false.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .coco_matching import Bools, Ints, Singles, overlapping_pairs

CONFIDENCE = 0.25
"""Detections of a higher score count."""
IOU = 0.45
"""Detections and annotations of a higher IoU may be paired."""


class LabelledBoxes(NamedTuple):
    """N boxes of a data set."""

    image: Ints  # (N,), number of the image
    label: Ints  # (N,), 0 .. C - 1
    boxes: Singles  # (N, 4) xyxy in px


def confusion_matrix(found: LabelledBoxes, truth: LabelledBoxes, crowd: Bools, num_classes: int) -> Ints:
    """Count pairs of predicted and true class.

    Each detection chooses the annotation of highest IoU, of any class. Of the detections that chose an
    annotation, that of highest IoU is paired with it. All other detections are false.

    Args:
        found: detections that count.
        truth: annotations.
        crowd: bool (G,), which annotations are crowds.
        num_classes: C.

    Returns:
        int64 (C + 1, C + 1): rows predicted, columns true. The last row counts missed annotations, the last
        column detections of background.
    """
    d, g, overlap = overlapping_pairs(found.image, found.boxes, truth.image, truth.boxes, crowd, IOU)
    above = overlap > IOU
    d, g, overlap = d[above], g[above], overlap[above]
    in_crowd = crowd[g]
    pair = np.flatnonzero(~in_crowd)
    for side, other in ((d, g), (g, d)):  # each detection chooses, then each annotation
        pair = pair[np.lexsort((other[pair], -overlap[pair], side[pair]))]
        pair = pair[np.unique(side[pair], return_index=True)[1]]
    excused = np.zeros(len(found.label), bool)
    excused[d[in_crowd]] = True
    excused[d[pair]] = True
    missed = ~crowd
    missed[g[pair]] = False
    background, sides = num_classes, num_classes + 1
    cells = (
        found.label[d[pair]] * sides + truth.label[g[pair]],
        background * sides + truth.label[missed],
        found.label[~excused] * sides + background,
    )
    return np.bincount(np.concatenate(cells), minlength=sides * sides).reshape(sides, sides)
