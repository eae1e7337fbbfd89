"""Which class is taken for which: the confusion matrix of classic YOLOv5, for a whole data set at once.

The rules are those of ``ConfusionMatrix`` in ultralytics/yolov5 v7.0 (``utils/metrics.py``), but for two:
detections of nothing count in each image, there only in images in which something was found; and a crowd,
which it does not know, is neither missed nor does what lies in it count as false. Everything is a flat NumPy
array, no Python object a box.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .coco_matching import pair_iou

CONFIDENCE = 0.25
"""A detection of a higher score counts."""
IOU = 0.45
"""A detection and an annotation that overlap more may be one another's."""

_PAIRS_AT_ONCE = 1 << 18  # bounds the memory of the IoU stage
_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LabelledBoxes:
    """N boxes of a data set.

    Attributes:
        image: int64 (N,), number of the image of each.
        label: int64 (N,), 0 .. C - 1.
        boxes: float32 (N, 4) xyxy in px.
    """

    image: _Ints
    label: _Ints
    boxes: npt.NDArray[np.float32]


def confusion_matrix(
    found: LabelledBoxes, truth: LabelledBoxes, crowd: npt.NDArray[np.bool_], num_classes: int
) -> _Ints:
    """Count which class was found where which class is.

    Of the annotations that a detection overlaps, whatever their classes, it chooses the one of the highest
    IoU, and of the detections that chose an annotation the one of the highest IoU has it. The others are
    false, and so is a detection that overlaps none.

    Args:
        found: the detections that count.
        truth: the annotations.
        crowd: bool (G,), which annotations are crowds.
        num_classes: C.

    Returns:
        int64 (C + 1, C + 1): rows what was found, columns what is there; the last row counts annotations
        that were missed, the last column detections of nothing.
    """
    d, g, overlap = _overlapping_pairs(found, truth, crowd)
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


def _overlapping_pairs(
    found: LabelledBoxes, truth: LabelledBoxes, crowd: npt.NDArray[np.bool_]
) -> tuple[_Ints, _Ints, _Floats]:
    """Detection, annotation and overlap, each (P,), of the pairs of one image that overlap enough.

    The overlap is the IoU, with a crowd the part of the detection that lies in it.
    """
    by_image = np.argsort(truth.image, kind="stable")
    image = truth.image[by_image]
    low = np.searchsorted(image, found.image, side="left")
    count = np.searchsorted(image, found.image, side="right") - low
    rows = np.flatnonzero(count)
    cuts = np.searchsorted(np.cumsum(count[rows]), np.arange(_PAIRS_AT_ONCE, count.sum(), _PAIRS_AT_ONCE))
    parts = []
    for chunk in np.split(rows, cuts):
        pairs = count[chunk]
        turn = np.arange(pairs.sum()) - np.repeat(np.cumsum(pairs) - pairs, pairs)
        d = np.repeat(chunk, pairs)
        g = by_image[np.repeat(low[chunk], pairs) + turn]
        boxes, others = found.boxes[d].astype(np.float64), truth.boxes[g].astype(np.float64)
        overlap = pair_iou(boxes, others, crowd[g])
        near = overlap > IOU
        parts.append((d[near], g[near], overlap[near]))
    d_parts, g_parts, overlap_parts = zip(*parts, strict=True)
    return np.concatenate(d_parts), np.concatenate(g_parts), np.concatenate(overlap_parts)
