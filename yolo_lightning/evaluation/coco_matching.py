"""Which detection finds which annotation, by COCO's rules, for a whole data set at once.

The rules are those of ``COCOeval`` (https://github.com/cocodataset/cocoapi). Everything is a flat NumPy
array: D detections and G annotations, each with its image and class, no Python object a box. Boxes are
stored in float32 and compared in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

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
MOST_PER_CLASS = 300  # detections of one class that an image may enter

_PAIRS_AT_ONCE = 1 << 18  # bounds the memory of the IoU stage
_Boxes = npt.NDArray[np.float32]
_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Detections:
    """D detections in the order in which COCO counts them: by class, then score, best first.

    Attributes:
        boxes: float32 (D, 4) xyxy in px.
        label: int64 (D,).
        group: int64 (D,), one number for each pair of image and class, as in ``Annotations``.
        rank: int64 (D,), place among the detections of its image and class, from 0.
    """

    boxes: _Boxes
    label: _Ints
    group: _Ints
    rank: _Ints


@dataclass(frozen=True)
class Annotations:
    """G annotations.

    Attributes:
        boxes: float32 (G, 4) xyxy in px.
        label: int64 (G,).
        group: int64 (G,), one number for each pair of image and class.
        crowd: bool (G,).
        ignored: bool (G, 4), a crowd, or of an area outside the range, for each of ``AREA_RANGES``.
    """

    boxes: _Boxes
    label: _Ints
    group: _Ints
    crowd: _Bools
    ignored: _Bools


@dataclass(frozen=True)
class Matches:
    """Outcome for the detections that touch some annotation; all others are unmatched.

    Attributes:
        detection: int64 (M,) ascending, rows of ``Detections``.
        matched: bool (M, 4, 10), by area range and IoU threshold.
        ignored: bool (M, 4, 10), matched to an annotation that does not count.
    """

    detection: _Ints
    matched: _Bools
    ignored: _Bools


def box_areas(boxes: _Boxes | _Floats) -> _Floats:
    """Area in float64 (N,) of xyxy boxes (N, 4): width times height."""
    width = np.subtract(boxes[:, 2], boxes[:, 0], dtype=np.float64)
    return np.asarray(width * np.subtract(boxes[:, 3], boxes[:, 1], dtype=np.float64))


def outside_areas(area: _Floats) -> _Bools:
    """Whether areas (N,) in square px lie outside each of ``AREA_RANGES``: bool (N, 4). Ends are inside."""
    low, high = np.array(list(AREA_RANGES.values())).T
    return np.asarray((area[:, None] < low) | (area[:, None] > high))


def order_detections(
    image: _Ints, label: _Ints, score: _Floats, boxes: _Boxes, num_classes: int
) -> Detections:
    """Sort detections as COCO does and keep the best ``MOST_PER_CLASS`` of an image and class.

    Equal scores stay in the order of image, then of input.

    Args:
        image: (D,), numbers that sort as the image ids do.
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
    return Detections(boxes[order], label[order], group[kept], rank[kept])


def match(detections: Detections, annotations: Annotations) -> Matches:
    """Give each detection, best first, the annotation that it finds, at 10 IoU thresholds and 4 area ranges.

    A detection takes the annotation of highest IoU (the later one of equals) that is still free, and one
    that is ignored only when there is no other. A crowd is never used up.

    Returns:
        The outcome for detections with an IoU of at least 0.5 with some annotation.
    """
    d, g, iou = _touching_pairs(detections, annotations)
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


def _turns(group: _Ints) -> _Ints:
    """How many rows of the same group come before each row: int64 (n,) from (n,)."""
    by_group = np.argsort(group, kind="stable")
    first = np.flatnonzero(np.diff(group[by_group], prepend=-1))
    turns = np.empty(len(group), np.int64)
    turns[by_group] = np.arange(len(group)) - np.repeat(first, np.diff(first, append=len(group)))
    return turns


def _rounds(group: _Ints) -> list[_Ints]:
    """Split rows (n,), already best first, so that the k-th part holds the k-th of each group."""
    turns = _turns(group)
    by_turn = np.argsort(turns, kind="stable")
    return np.split(by_turn, np.cumsum(np.bincount(turns))[:-1]) if len(group) else []


def _touching_pairs(detections: Detections, annotations: Annotations) -> tuple[_Ints, _Ints, _Floats]:
    """Detection, annotation and IoU, each (P,), of the pairs of one group with an IoU of at least 0.5.

    The IoU with a crowd is the intersection over the area of the detection.
    """
    by_group = np.argsort(annotations.group, kind="stable")
    sorted_group = annotations.group[by_group]
    low = np.searchsorted(sorted_group, detections.group, side="left")
    count = np.searchsorted(sorted_group, detections.group, side="right") - low
    rows = np.flatnonzero(count)
    ends = np.cumsum(count[rows])
    cuts = np.searchsorted(ends, np.arange(_PAIRS_AT_ONCE, count.sum(), _PAIRS_AT_ONCE))
    parts = []
    for chunk in np.split(rows, cuts):
        pairs = count[chunk]
        offset = np.arange(pairs.sum()) - np.repeat(np.cumsum(pairs) - pairs, pairs)
        d = np.repeat(chunk, pairs)
        g = by_group[np.repeat(low[chunk], pairs) + offset]
        found, truth = detections.boxes[d].astype(np.float64), annotations.boxes[g].astype(np.float64)
        iou = pair_iou(found, truth, annotations.crowd[g])
        near = iou >= IOU_THRESHOLDS[0]
        parts.append((d[near], g[near], iou[near]))
    d_parts, g_parts, iou_parts = zip(*parts, strict=True)
    return np.concatenate(d_parts), np.concatenate(g_parts), np.concatenate(iou_parts)


def pair_iou(found: _Floats, truth: _Floats, crowd: _Bools) -> _Floats:
    """IoU (P,) of xyxy boxes (P, 4), pair by pair; zero where the boxes do not overlap."""
    width = np.minimum(found[:, 2], truth[:, 2]) - np.maximum(found[:, 0], truth[:, 0])
    height = np.minimum(found[:, 3], truth[:, 3]) - np.maximum(found[:, 1], truth[:, 1])
    intersection = np.where((width > 0) & (height > 0), width * height, 0.0)
    found_area = box_areas(found)
    union = np.where(crowd, found_area, found_area + box_areas(truth) - intersection)
    return np.asarray(np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0))
