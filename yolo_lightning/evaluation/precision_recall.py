"""Precision, recall and F1 of each class, against confidence and against each other, at an IoU of 0.5."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from . import confusion
from .coco_matching import RECALL_LEVELS, Annotations, Detections, Matches
from .confusion import LabelledBoxes, confusion_matrix

CONFIDENCE = np.linspace(0.0, 1.0, 1001)
"""Where curves against confidence are computed."""
_WRITTEN = 5
"""Of these every fifth is written to a file."""
_SMOOTHING = 0.1
"""Width of the box filter, as a part of the confidences, through which the best F1 is looked for."""
_EPSILON = 1e-16
_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class EvaluationDetails:
    """What a validation found, of the images of all ranks: D detections and C classes.

    Detections are those that mean average precision looks at, without those that found a crowd. They lie
    class by class, best first.

    Attributes:
        score: float32 (D,), 0..1.
        hit: bool (D,), whether it found an annotation, at an IoU of 0.5 over all areas.
        first: int64 (C + 1,); those of class c are ``first[c]:first[c + 1]``.
        truths: int64 (C,), annotations to find; crowds are none.
        average_precision: float64 (C, 10), at IoU 0.50:0.95 over all areas; nan without an annotation.
        confident: detections of a score above ``confusion.CONFIDENCE``.
        annotations: all annotations.
        crowd: bool (G,), which of these are crowds.
    """

    score: npt.NDArray[np.float32]
    hit: npt.NDArray[np.bool_]
    first: _Ints
    truths: _Ints
    average_precision: _Floats
    confident: LabelledBoxes
    annotations: LabelledBoxes
    crowd: npt.NDArray[np.bool_]

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.truths)

    @property
    def mean_average_precision(self) -> float:
        """Over all classes that have an annotation, as ``val/map``; -1 when none has."""
        known = self.average_precision[self.truths > 0]
        return float(np.float32(known.mean())) if known.size else -1.0

    @cached_property
    def confusion(self) -> _Ints:
        """int64 (C + 1, C + 1), see ``confusion.confusion_matrix``; computed when it is asked for."""
        return confusion_matrix(self.confident, self.annotations, self.crowd, self.num_classes)

    def classes(self) -> Iterator[tuple[npt.NDArray[np.float32], _Ints]]:
        """For each class its scores (n,), best first, and the hits (n,) among the best 1, 2, .. n."""
        for start, end in zip(self.first, self.first[1:], strict=False):
            yield self.score[start:end], np.cumsum(self.hit[start:end])


def evaluation_details(
    found: Detections,
    score: npt.NDArray[np.float32],
    truth: Annotations,
    matches: Matches,
    average_precision: _Floats,
    *,
    most: int,
) -> EvaluationDetails:
    """Keep of an evaluation what curves and confusion matrix are made of.

    Args:
        found: the detections.
        score: float32 (D,) of these.
        truth: the annotations.
        matches: which of them found which.
        average_precision: float64 (C, 10).
        most: detections of an image and class that count.
    """
    num_classes = len(average_precision)
    matched, ignored = matches.matched[:, 0, 0], matches.ignored[:, 0, 0]  # all areas, IoU 0.5
    hit = np.zeros(len(score), bool)
    hit[matches.detection] = matched & ~ignored
    counted = found.rank < most
    counted[matches.detection[matched & ignored]] = False
    sure = score > confusion.CONFIDENCE
    return EvaluationDetails(
        score=score[counted],
        hit=hit[counted],
        first=np.searchsorted(found.label[counted], np.arange(num_classes + 1)),
        truths=np.bincount(truth.label[~truth.ignored[:, 0]], minlength=num_classes),
        average_precision=average_precision,
        confident=LabelledBoxes(found.group[sure] // num_classes, found.label[sure], found.boxes[sure]),
        annotations=LabelledBoxes(truth.group // num_classes, truth.label, truth.boxes),
        crowd=truth.crowd,
    )


@dataclass(frozen=True, eq=False)
class ConfidenceCurves:
    """Curves against confidence, of C classes at K confidences, each float64 and nan without annotations.

    Attributes:
        confidence: (K,), 0..1 ascending.
        precision: (C, K).
        recall: (C, K).
        f1: (C, K).
        best_confidence: where the mean of F1 over the classes is best, after smoothing; nan without classes.
        best_f1: that mean there, not smoothed.
    """

    confidence: _Floats
    precision: _Floats
    recall: _Floats
    f1: _Floats
    best_confidence: float
    best_f1: float


def confidence_curves(details: EvaluationDetails, confidence: _Floats = CONFIDENCE) -> ConfidenceCurves:
    """Precision, recall and F1 if only detections of a certain confidence counted.

    As ``ap_per_class`` of ultralytics/yolov5 v7.0 (``utils/metrics.py``) does it: linear between the scores
    of a class; above its best score precision is 1 and recall 0. A class without detections has zeros.
    Detections of equal scores count together, so that their order does not matter.

    Args:
        details: of a validation.
        confidence: (K,), 0..1 ascending.
    """
    shape = (details.num_classes, len(confidence))
    precision, recall = np.full(shape, np.nan), np.full(shape, np.nan)
    for label, (score, hits) in enumerate(details.classes()):
        if not details.truths[label]:
            continue
        precision[label] = recall[label] = 0.0
        if len(score):
            reported = 1 + np.flatnonzero(np.append(score[1:] < score[:-1], True))  # equal scores together
            score, hits = score[reported - 1], hits[reported - 1]
            precision[label] = np.interp(-confidence, -score, hits / reported, left=1.0)
            recall[label] = np.interp(-confidence, -score, hits / details.truths[label], left=0.0)
    f1 = 2 * precision * recall / (precision + recall + _EPSILON)
    known = details.truths > 0
    if not known.any():
        return ConfidenceCurves(confidence, precision, recall, f1, np.nan, np.nan)
    mean = f1[known].mean(axis=0)
    best = int(smooth(mean, _SMOOTHING).argmax())
    return ConfidenceCurves(confidence, precision, recall, f1, float(confidence[best]), float(mean[best]))


def smooth(values: _Floats, width: float) -> _Floats:
    """Means over a window of that part of (K,) values, an odd number; the ends are continued."""
    half = round(len(values) * width) // 2
    padded = np.pad(values, half, mode="edge")
    return np.convolve(padded, np.full(2 * half + 1, 1 / (2 * half + 1)), mode="valid")


def precision_at_recall(details: EvaluationDetails) -> _Floats:
    """The best precision at each recall or more: float64 (C, 101) at ``RECALL_LEVELS``.

    It is 0 where the recall is not reached, and nan for a class without annotations. The mean of a row is
    the class's average precision at an IoU of 0.5.
    """
    result = np.full((details.num_classes, len(RECALL_LEVELS)), np.nan)
    for label, (score, hits) in enumerate(details.classes()):
        if details.truths[label]:
            precision = hits / np.arange(1, len(score) + 1)
            best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
            result[label] = best[np.searchsorted(hits / details.truths[label], RECALL_LEVELS)]
    return result


def counts_at(details: EvaluationDetails, thresholds: _Floats) -> _Ints:
    """Detections and annotations right and wrong, if only scores from a threshold on counted.

    Args:
        details: of a validation.
        thresholds: (T,), 0..1.

    Returns:
        int64 (4, C, T): true positives; false positives; true negatives, which are wrong detections below
        the threshold; false negatives.
    """
    counts = np.zeros((4, details.num_classes, len(thresholds)), np.int64)
    levels = -thresholds.astype(np.float32)
    for label, (score, hits) in enumerate(details.classes()):
        reported = np.searchsorted(-score, levels, side="right")
        right = np.concatenate(([0], hits))[reported]
        wrong = len(score) - (hits[-1] if len(hits) else 0)
        false = reported - right
        counts[:, label] = right, false, wrong - false, details.truths[label] - right
    return counts


def describe_evaluation(details: EvaluationDetails, class_names: Sequence[str], epoch: int) -> dict[str, Any]:
    """Curves and confusion matrix of a validation as plain lists, for JSON.

    Args:
        details: of the validation.
        class_names: C names.
        epoch: counted from 0.

    Returns:
        ``epoch``; ``class_names``; ``confidence`` (K,), and C lists of K each in ``precision``, ``recall``
        and ``f1``; ``pr_recall`` (101,), and C lists of 101 in ``pr_precision``; ``ap_50`` (C,) and ``ap``
        (C,), at IoU 0.5 and over 0.50:0.95; ``truths`` (C,); ``confusion``, C + 1 lists of C + 1 counts,
        rows predicted, columns true, the last of each background; ``best_f1`` with ``confidence`` and
        ``f1``. What is unknown, for want of annotations, is None.
    """
    curves = confidence_curves(details)
    against = {name: getattr(curves, name)[..., ::_WRITTEN] for name in ("confidence", *CURVES)}
    best = {"confidence": curves.best_confidence, "f1": curves.best_f1}
    return {
        "epoch": epoch,
        "class_names": list(class_names),
        **{name: _plain(values) for name, values in against.items()},
        "pr_recall": _plain(RECALL_LEVELS),
        "pr_precision": _plain(precision_at_recall(details)),
        "ap_50": _plain(details.average_precision[:, 0]),
        "ap": _plain(details.average_precision.mean(axis=1)),
        "truths": details.truths.tolist(),
        "confusion": details.confusion.tolist(),
        "best_f1": None
        if np.isnan(curves.best_f1)
        else {name: round(value, 5) for name, value in best.items()},
    }


CURVES = ("precision", "recall", "f1")


def _plain(values: _Floats) -> Any:
    """Lists of numbers rounded to what a picture can show; None for nan."""
    return np.where(np.isnan(values), None, values.round(5)).tolist()  # type: ignore[call-overload]
