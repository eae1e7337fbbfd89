"""IoU of boxes in float64, and the pairs of detections and annotations that overlap."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_PAIRS_AT_ONCE = 1 << 18  # bounds the memory of the IoU stage
_Boxes = npt.NDArray[np.float32]
_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]


def box_areas(boxes: _Boxes | _Floats) -> _Floats:
    """Area in float64 (N,) of xyxy boxes (N, 4): width times height."""
    width = np.subtract(boxes[:, 2], boxes[:, 0], dtype=np.float64)
    return np.asarray(width * np.subtract(boxes[:, 3], boxes[:, 1], dtype=np.float64))


def pair_iou(found: _Floats, truth: _Floats, crowd: _Bools) -> _Floats:
    """IoU (P,) of xyxy boxes (P, 4), pair by pair; with a crowd, intersection over area of the detection."""
    width = np.minimum(found[:, 2], truth[:, 2]) - np.maximum(found[:, 0], truth[:, 0])
    height = np.minimum(found[:, 3], truth[:, 3]) - np.maximum(found[:, 1], truth[:, 1])
    intersection = np.where((width > 0) & (height > 0), width * height, 0.0)
    found_area = box_areas(found)
    union = np.where(crowd, found_area, found_area + box_areas(truth) - intersection)
    return np.asarray(np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0))


def overlapping_pairs(
    found_group: _Ints,
    found_boxes: _Boxes,
    truth_group: _Ints,
    truth_boxes: _Boxes,
    crowd: _Bools,
    least_iou: float,
) -> tuple[_Ints, _Ints, _Floats]:
    """Detection, annotation and IoU, each (P,), of the pairs of one group that overlap enough.

    Args:
        found_group: (D,), group of each detection.
        found_boxes: (D, 4) xyxy in px.
        truth_group: (G,), group of each annotation.
        truth_boxes: (G, 4) xyxy in px.
        crowd: (G,), which annotations are crowds.
        least_iou: least IoU of a pair, see :func:`pair_iou`.
    """
    by_group = np.argsort(truth_group, kind="stable")
    sorted_group = truth_group[by_group]
    low = np.searchsorted(sorted_group, found_group, side="left")
    count = np.searchsorted(sorted_group, found_group, side="right") - low
    rows = np.flatnonzero(count)
    cuts = np.searchsorted(np.cumsum(count[rows]), np.arange(_PAIRS_AT_ONCE, count.sum(), _PAIRS_AT_ONCE))
    parts = []
    for chunk in np.split(rows, cuts):
        pairs = count[chunk]
        offset = np.arange(pairs.sum()) - np.repeat(np.cumsum(pairs) - pairs, pairs)
        d = np.repeat(chunk, pairs)
        g = by_group[np.repeat(low[chunk], pairs) + offset]
        iou = pair_iou(found_boxes[d].astype(np.float64), truth_boxes[g].astype(np.float64), crowd[g])
        near = iou >= least_iou
        parts.append((d[near], g[near], iou[near]))
    d_parts, g_parts, iou_parts = zip(*parts, strict=True)
    return np.concatenate(d_parts), np.concatenate(g_parts), np.concatenate(iou_parts)
