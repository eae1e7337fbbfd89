"""Precision, recall and F1 of each class, by confidence and by each other, at an IoU of 0.5."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from . import confusion
from .coco_matching import RECALL_LEVELS, Annotations, Bools, Detections, Floats, Ints, Matches, Singles
from .confusion import LabelledBoxes, confusion_matrix
from .image_matches import ImageMatches

CONFIDENCE = np.linspace(0.0, 1.0, 1001)
"""Confidences of the curves."""
_WRITTEN = 5
"""Every fifth confidence is written to a file."""
_SMOOTHING = 0.1
"""Width of the box filter that smooths F1 before its best is chosen, as a part of the confidences."""
_EPSILON = 1e-16
CURVES = ("precision", "recall", "f1")
"""Names of the curves by confidence."""


@dataclass(frozen=True, eq=False)
class EvaluationDetails:
    """Results of a validation over all ranks: D detections and C classes.

    The detections are those that count for mean average precision, without those matched with a crowd, class
    by class, best first.

    Hits are at an IoU of 0.5 over all areas.
    """

    score: Singles  # (D,), 0..1
    hit: Bools  # (D,), matched with an annotation
    first: Ints  # (C + 1,); detections of class c are first[c]:first[c + 1]
    truths: Ints  # (C,), annotations without crowds
    average_precision: Floats  # (C, 10), at IoU 0.50:0.95 over all areas; nan without an annotation
    confident: LabelledBoxes  # detections of a score above confusion.CONFIDENCE
    annotations: LabelledBoxes  # all annotations
    crowd: Bools  # (G,), which annotations are crowds
    by_image: ImageMatches  # what the bootstrap needs

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.truths)

    @cached_property
    def confusion(self) -> Ints:
        """int64 (C + 1, C + 1), see ``confusion.confusion_matrix``; computed on first use."""
        return confusion_matrix(self.confident, self.annotations, self.crowd, self.num_classes)

    @cached_property
    def curves(self) -> ConfidenceCurves:
        """Precision, recall and F1 at 1001 confidences; computed on first use."""
        return confidence_curves(self)

    def classes(self) -> Iterator[tuple[Singles, Ints]]:
        """Scores (n,) of each class, best first, and hits (n,) among the best 1, 2, .. n."""
        for start, end in zip(self.first, self.first[1:], strict=False):
            yield self.score[start:end], np.cumsum(self.hit[start:end])


def evaluation_details(
    found: Detections,
    truth: Annotations,
    matches: Matches,
    average_precision: Floats,
    by_image: ImageMatches,
    *,
    most: int,
) -> EvaluationDetails:
    """Collect the data of curves and confusion matrix.

    Args:
        found: detections.
        truth: annotations.
        matches: matches of the two.
        average_precision: float64 (C, 10).
        by_image: matches by image.
        most: detections of an image and class that count.
    """
    num_classes = len(average_precision)
    matched, ignored = matches.matched[:, 0, 0], matches.ignored[:, 0, 0]  # all areas, IoU 0.5
    hit = np.zeros(len(found.score), bool)
    hit[matches.detection] = matched & ~ignored
    counted = found.rank < most
    counted[matches.detection[matched & ignored]] = False
    sure = found.score > confusion.CONFIDENCE
    return EvaluationDetails(
        score=found.score[counted],
        hit=hit[counted],
        first=np.searchsorted(found.label[counted], np.arange(num_classes + 1)),
        truths=np.bincount(truth.label[~truth.ignored[:, 0]], minlength=num_classes),
        average_precision=average_precision,
        confident=LabelledBoxes(found.group[sure] // num_classes, found.label[sure], found.boxes[sure]),
        annotations=LabelledBoxes(truth.group // num_classes, truth.label, truth.boxes),
        crowd=truth.crowd,
        by_image=by_image,
    )


class ConfidenceCurves(NamedTuple):
    """Curves by confidence, of C classes at K confidences; nan without annotations."""

    confidence: Floats  # (K,), 0..1 ascending
    precision: Floats  # (C, K)
    recall: Floats  # (C, K)
    f1: Floats  # (C, K)
    best_confidence: float  # of the best smoothed mean of F1 over the classes; nan without classes
    best_f1: float  # unsmoothed mean of F1 at that confidence

    def at_best(self) -> Floats:
        """Precision, recall and F1 of each class at the best confidence: float64 (3, C); nan if unknown."""
        curves = np.stack((self.precision, self.recall, self.f1))  # (3, C, K)
        place = np.searchsorted(self.confidence, self.best_confidence)
        return curves[..., min(place, curves.shape[-1] - 1)]

    def best_of_classes(self) -> Floats:
        """Confidence of the best smoothed F1 of each class: float64 (C,).

        It is the middle one of equals, and ``best_confidence`` for a class of which nothing is found.
        """
        best = np.full(len(self.f1), self.best_confidence)
        for label, curve in enumerate(self.f1):
            smoothed = smooth(curve, _SMOOTHING)
            if smoothed.max() > 0:
                places = np.flatnonzero(smoothed > smoothed.max() - 1e-9)
                best[label] = self.confidence[places[len(places) // 2]]
        return best


def confidence_curves(details: EvaluationDetails, confidence: Floats = CONFIDENCE) -> ConfidenceCurves:
    """Precision, recall and F1 of the detections above each confidence.

    As in ``ap_per_class`` of ultralytics/yolov5 v7.0 (``utils/metrics.py``), curves are linear between the
    scores of a class; above its best score precision is 1 and recall 0. A class without detections has zeros.
    Detections of equal scores count together, so that their order does not matter. ``confidence`` is (K,),
    0..1 ascending.
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


def smooth(values: Floats, width: float) -> Floats:
    """Moving average of (K,) values over an odd window, ``width`` of them; the ends are repeated."""
    half = round(len(values) * width) // 2
    padded = np.pad(values, half, mode="edge")
    return np.convolve(padded, np.full(2 * half + 1, 1 / (2 * half + 1)), mode="valid")


def precision_at_recall(details: EvaluationDetails) -> Floats:
    """Best precision at each recall or above: float64 (C, 101) at ``RECALL_LEVELS``.

    It is 0 if the recall is not reached, and nan for a class without annotations. The mean of a row is the
    average precision of the class at an IoU of 0.5.
    """
    result = np.full((details.num_classes, len(RECALL_LEVELS)), np.nan)
    for label, (score, hits) in enumerate(details.classes()):
        if details.truths[label]:
            precision = hits / np.arange(1, len(score) + 1)
            best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
            result[label] = best[np.searchsorted(hits / details.truths[label], RECALL_LEVELS)]
    return result


def counts_at(details: EvaluationDetails, thresholds: Floats) -> Ints:
    """Right and wrong detections and annotations at score ``thresholds`` (T,), 0..1.

    Returns:
        int64 (4, C, T): true positives, false positives, true negatives (wrong detections below the
        threshold), false negatives.
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
    """Curves and confusion matrix of a validation as plain lists, for JSON; epochs are counted from 0.

    Returns:
        ``epoch``; ``class_names``; ``confidence`` (K,), and C lists of K each in ``precision``, ``recall``
        and ``f1``; ``pr_recall`` (101,), and C lists of 101 in ``pr_precision``; ``ap_50`` (C,) and ``ap``
        (C,), at IoU 0.5 and over 0.50:0.95; ``truths`` (C,); ``confusion``, C + 1 lists of C + 1 counts,
        rows predicted, columns true, the last of each background; ``best_f1`` with ``confidence`` and
        ``f1``. Values that are unknown, for lack of annotations, are None.
    """
    curves = details.curves
    against = {name: getattr(curves, name)[..., ::_WRITTEN] for name in ("confidence", *CURVES)}
    best = {"confidence": round(curves.best_confidence, 5), "f1": round(curves.best_f1, 5)}
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
        "best_f1": None if np.isnan(curves.best_f1) else best,
    }


def _plain(values: Floats) -> Any:
    """Lists of numbers rounded to 5 digits; None for nan."""
    return np.where(np.isnan(values), None, values.round(5)).tolist()  # type: ignore[call-overload]
