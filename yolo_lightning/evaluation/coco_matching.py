"""Matching of detections and annotations by COCO's rules, for a whole data set at once.

The rules are those of ``COCOeval`` (https://github.com/cocodataset/cocoapi). Everything is a flat NumPy
array: D detections and G annotations, each with its image and class, no Python object a box. Boxes are
stored in float32 and compared in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..data.annotations.summary import LARGE_AREA_PX2, SMALL_AREA_PX2

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
AREA_RANGES = {
    "all": (0.0, 1e10),
    "small": (0.0, SMALL_AREA_PX2),
    "medium": (SMALL_AREA_PX2, LARGE_AREA_PX2),
    "large": (LARGE_AREA_PX2, 1e10),
}
MOST_PER_CLASS = 300  # detections of one class in an image
_PAIRS_AT_ONCE = 1 << 18  # bounds the memory of the IoU stage

Singles = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Detections(NamedTuple):
    """D detections in COCO's order: by class, then score, best first."""

    boxes: Singles  # (D, 4) xyxy in px
    label: Ints  # (D,)
    score: Singles  # (D,)
    group: Ints  # (D,), number of its image and class, as in Annotations
    rank: Ints  # (D,), place among the detections of its group, from 0


class Annotations(NamedTuple):
    """G annotations."""

    boxes: Singles  # (G, 4) xyxy in px
    label: Ints  # (G,)
    group: Ints  # (G,), number of its image and class
    crowd: Bools  # (G,)
    ignored: Bools  # (G, 4), for each of AREA_RANGES: a crowd, or of an area outside the range


class Matches(NamedTuple):
    """Outcome for detections that overlap an annotation enough; all others are unmatched."""

    detection: Ints  # (M,) ascending, rows of Detections
    matched: Bools  # (M, 4, 10), by area range and IoU threshold
    ignored: Bools  # (M, 4, 10), matched to an annotation that does not count


def outside_areas(area: Floats) -> Bools:
    """Areas (N,) in px^2 outside each of ``AREA_RANGES``, whose ends are inside: bool (N, 4)."""
    low, high = np.array(list(AREA_RANGES.values())).T
    return np.asarray((area[:, None] < low) | (area[:, None] > high))


def order_detections(
    image: Ints, label: Ints, score: Singles, boxes: Singles, num_classes: int
) -> Detections:
    """Sort detections as COCO does and keep the best ``MOST_PER_CLASS`` of an image and class.

    Equal scores stay in the order of images, then of the input.

    Args:
        image: (D,), numbers in the order of the image ids.
        label: (D,), 0 .. num_classes - 1.
        score: (D,).
        boxes: (D, 4) xyxy in px.
        num_classes: number of classes C.
    """
    order = np.lexsort((image, -score, label))
    group = image[order] * num_classes + label[order]
    rank = _turns(group)
    kept = rank < MOST_PER_CLASS
    order = order[kept]
    return Detections(boxes[order], label[order], score[order], group[kept], rank[kept])


def match(detections: Detections, annotations: Annotations) -> Matches:
    """Match detections, best first, with annotations, at 10 IoU thresholds and 4 area ranges.

    A detection takes the free annotation of highest IoU (the later one of equals), and an ignored one only
    if there is no other. A crowd may be taken any number of times.

    Returns:
        The outcome for detections with an IoU of at least 0.5 with some annotation.
    """
    d, g, iou = overlapping_pairs(
        detections.group, detections.boxes, annotations.group, annotations.boxes, annotations.crowd, 0.5
    )
    order = np.lexsort((g, iou, d))  # within a detection, the preferred annotation last
    d, g, iou = d[order], g[order], iou[order]
    touching, start, pairs = np.unique(d, return_index=True, return_counts=True)
    matched = np.zeros((len(touching), len(AREA_RANGES), len(IOU_THRESHOLDS)), bool)
    ignored = np.zeros_like(matched)
    taken = np.zeros((len(annotations.group), *matched.shape[1:]), bool)
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    # In a round every image and class handles its next best detection, so rounds are few and wide.
    for chosen in _rounds(detections.group[touching]):
        first = np.cumsum(pairs[chosen]) - pairs[chosen]
        pair = np.repeat(start[chosen] - first, pairs[chosen]) + np.arange(pairs[chosen].sum())  # (P,)
        truth = g[pair]
        free = ~taken[truth] | annotations.crowd[truth, None, None]  # (P, 4, 10)
        free &= (iou[pair, None] >= thresholds)[:, None]
        counts = ~annotations.ignored[truth][..., None]  # (P, 4, 1)
        # The place in the order breaks ties; an annotation that counts outranks all that do not.
        place = np.arange(1, len(pair) + 1)[:, None, None]
        preference = np.where(free, place + counts * len(pair), 0)  # (P, 4, 10)
        best = np.maximum.reduceat(preference, first, axis=0)  # (n, 4, 10)
        found = best > 0
        winner = truth[(best - 1) % len(pair)]  # (n, 4, 10); arbitrary where nothing was found
        row, area, threshold = np.nonzero(found)
        won = winner[row, area, threshold]
        taken[won, area, threshold] = True
        matched[chosen] = found
        ignored[chosen[row], area, threshold] = annotations.ignored[won, area]
    return Matches(touching, matched, ignored)


def box_areas(boxes: Singles | Floats) -> Floats:
    """Area in float64 (N,) of xyxy boxes (N, 4): width times height."""
    width = np.subtract(boxes[:, 2], boxes[:, 0], dtype=np.float64)
    return np.asarray(width * np.subtract(boxes[:, 3], boxes[:, 1], dtype=np.float64))


def pair_iou(found: Floats, truth: Floats, crowd: Bools) -> Floats:
    """IoU (P,) of xyxy boxes (P, 4), pair by pair; with a crowd, intersection over area of the detection."""
    width = np.minimum(found[:, 2], truth[:, 2]) - np.maximum(found[:, 0], truth[:, 0])
    height = np.minimum(found[:, 3], truth[:, 3]) - np.maximum(found[:, 1], truth[:, 1])
    intersection = np.where((width > 0) & (height > 0), width * height, 0.0)
    found_area = box_areas(found)
    union = np.where(crowd, found_area, found_area + box_areas(truth) - intersection)
    return np.asarray(np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0))


def overlapping_pairs(
    found_group: Ints,
    found_boxes: Singles,
    truth_group: Ints,
    truth_boxes: Singles,
    crowd: Bools,
    least_iou: float,
) -> tuple[Ints, Ints, Floats]:
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


def _turns(group: Ints) -> Ints:
    """Number of earlier rows of the same group, for each row: int64 (n,) from (n,)."""
    by_group = np.argsort(group, kind="stable")
    first = np.flatnonzero(np.diff(group[by_group], prepend=-1))
    turns = np.empty(len(group), np.int64)
    turns[by_group] = np.arange(len(group)) - np.repeat(first, np.diff(first, append=len(group)))
    return turns


def _rounds(group: Ints) -> list[Ints]:
    """Split rows (n,) so that the k-th part holds the k-th row of each group."""
    turns = _turns(group)
    by_turn = np.argsort(turns, kind="stable")
    return np.split(by_turn, np.cumsum(np.bincount(turns))[:-1]) if len(group) else []
