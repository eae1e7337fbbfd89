"""COCO mean average precision of detections, kept in three flat tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from .coco_matching import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    RECALL_LEVELS,
    Annotations,
    Detections,
    Floats,
    Ints,
    Matches,
    box_areas,
    match,
    order_detections,
    outside_areas,
)
from .image_matches import image_matches
from .precision_recall import CURVES, EvaluationDetails, evaluation_details

_MOST_DETECTIONS = 100  # detections of an image and class that count, as COCO has it
FIGURES = (
    *("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100"),
    *("precision", "recall", "f1", "f1_confidence", "fitness"),
)
"""Names of the metrics of a whole evaluation."""
CLASS_FIGURES = ("map", "precision", "recall", "f1")
"""Those that each class has, too: as ``map_class/<name>`` and so on."""


class CocoMeanAveragePrecision(Metric):
    """Mean average precision as ``pycocotools.COCOeval`` computes it for boxes.

    The states are three flat tensors that grow by concatenation, so ranks may hold different numbers of
    images, or none, and a synchronisation is three gathers. An image that is added twice counts once, as in
    the padding of a distributed sampler.

    Args:
        num_classes: C; classes are 0 .. C - 1.
        kwargs: options of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    images: list[Tensor]
    detections: list[Tensor]
    truth: list[Tensor]
    details: EvaluationDetails | None = None
    """Details of the last :meth:`compute`, of all ranks; None again after :meth:`update`."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        for name in ("images", "detections", "truth"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self._start_empty()

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._start_empty()

    def _start_empty(self) -> None:
        # A rank without images takes part in the gathers with tables of no rows but the right width.
        self.images.append(torch.zeros((0, 5), dtype=torch.int64, device=self.device))
        self.detections.append(torch.zeros((0, 6), device=self.device))
        self.truth.append(torch.zeros((0, 7), device=self.device))

    def update(
        self,
        image_ids: Tensor,
        detections: Tensor,
        detection_counts: Tensor,
        truth: Tensor,
        truth_counts: Tensor,
    ) -> None:
        """Add B images without reading from the device.

        Args:
            image_ids: int64 (B,).
            detections: float (B, D, 6): x1, y1, x2, y2 in px of the original image, score, class.
            detection_counts: int64 (B,), number of real rows of ``detections``.
            truth: float (B, M, 7): class, x1, y1, x2, y2 in px of the original image, annotated area in
                px^2, 1 for a crowd.
            truth_counts: int64 (B,), number of real rows of ``truth``.
        """
        self.details = None
        columns = (
            image_ids,
            torch.full_like(image_ids, detections.shape[1]),
            detection_counts,
            torch.full_like(image_ids, truth.shape[1]),
            truth_counts,
        )
        self.images.append(torch.stack([column.to(self.device, torch.int64) for column in columns], dim=1))
        self.detections.append(detections.detach().to(self.device, torch.float32).flatten(0, 1))
        self.truth.append(truth.detach().to(self.device, torch.float32).flatten(0, 1))

    def compute(self) -> dict[str, Tensor]:
        """Metrics over all images, each a float32 scalar except for those of the classes.

        Returns:
            ``map`` (IoU 0.50:0.95), ``map_50``, ``map_75``; ``map_small``, ``map_medium``, ``map_large``
            (annotated areas up to 32^2, from there up to 96^2, and above, in px^2); ``mar_100``, recall with
            100 detections of an image and class; ``precision``, ``recall`` and ``f1``, means over the classes
            at IoU 0.50 and the confidence ``f1_confidence``, where F1 is best; ``fitness``, 0.1 ``map_50`` +
            0.9 ``map``. Each is -1 without an annotation to find. ``map_per_class`` (C,), and likewise of
            precision, recall and F1, is nan for such a class.

        Raises:
            ValueError: a class is not in 0 .. num_classes - 1.
        """
        image_ids, found, truth = self._tables()
        matches = match(found, truth)
        precision = _average_precision(found, truth, matches, self.num_classes)  # (C, 4, 10)
        at_all = precision[:, 0]  # (C, 10)
        by_image = image_matches(image_ids, found, truth, matches, self.num_classes, most=_MOST_DETECTIONS)
        details = evaluation_details(found, truth, matches, at_all, by_image, most=_MOST_DETECTIONS)
        self.details = details
        areas = dict(zip(AREA_RANGES, np.moveaxis(precision, 1, 0), strict=True))  # each (C, 10)
        figures = {
            "map": areas["all"],
            "map_50": areas["all"][:, IOU_THRESHOLDS == 0.5],
            "map_75": areas["all"][:, IOU_THRESHOLDS == 0.75],
            **{f"map_{name}": areas[name] for name in ("small", "medium", "large")},
            "mar_100": _recall(found, truth, matches, self.num_classes),
        }
        curves = details.curves
        at_best = dict(zip(CURVES, curves.at_best(), strict=True))  # each (C,)
        values = {name: mean_or_minus_one(of_classes) for name, of_classes in (figures | at_best).items()}
        values["f1_confidence"] = -1.0 if np.isnan(curves.best_confidence) else curves.best_confidence
        values["fitness"] = 0.1 * values["map_50"] + 0.9 * values["map"]
        per_class = {"map": areas["all"].mean(axis=1)} | at_best
        return {name: self._tensor(value) for name, value in values.items()} | {
            f"{name}_per_class": self._tensor(of_classes) for name, of_classes in per_class.items()
        }

    def _tensor(self, values: float | Floats) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=self.device)

    def _tables(self) -> tuple[Ints, Detections, Annotations]:
        images = dim_zero_cat(self.images).cpu().numpy()  # (I, 5)
        ids, first, number = np.unique(images[:, 0], return_index=True, return_inverse=True)
        once = np.zeros(len(images), np.int64)
        once[first] = 1
        rows, image = _real_rows(images[:, 1], images[:, 2] * once)
        found = dim_zero_cat(self.detections).cpu().numpy()[rows]  # (D, 6)
        label = self._labels(found[:, 5], "detection")
        detections = order_detections(number[image], label, found[:, 4], found[:, :4], self.num_classes)
        rows, image = _real_rows(images[:, 3], images[:, 4] * once)
        truth = dim_zero_cat(self.truth).cpu().numpy()[rows]  # (G, 7)
        label = self._labels(truth[:, 0], "annotation")
        group, crowd = number[image] * self.num_classes + label, truth[:, 6] > 0
        ignored = crowd[:, None] | outside_areas(truth[:, 5])
        return ids, detections, Annotations(truth[:, 1:5], label, group, crowd, ignored)

    def _labels(self, classes: npt.NDArray[Any], what: str) -> Ints:
        label = classes.astype(np.int64)
        if len(label) and not 0 <= label.min() <= label.max() < self.num_classes:
            wrong = label.min() if label.min() < 0 else label.max()
            raise ValueError(f"a {what} has class {wrong}, but there are {self.num_classes} classes")
        return label


def log_values(result: dict[str, Tensor], class_names: Sequence[str]) -> dict[str, Tensor]:
    """Logged metrics of ``CocoMeanAveragePrecision.compute``, by name.

    Args:
        result: from ``compute``.
        class_names: C names.

    Returns:
        float32 scalars: ``FIGURES``, and ``<figure>_class/<name>`` for each of ``CLASS_FIGURES``; without
        those for which there is no annotation to find.
    """
    values = {name: result[name] for name in FIGURES if bool(result[name] >= 0)}
    for figure in CLASS_FIGURES:
        per_class = result[f"{figure}_per_class"].reshape(-1)  # torchmetrics squeezes that of a single class
        for name, value, unknown in zip(class_names, per_class, per_class.isnan().tolist(), strict=True):
            if not unknown:
                values[f"{figure}_class/{name}"] = value
    return values


def _real_rows(reserved: Ints, real: Ints) -> tuple[Ints, Ints]:
    """Row and image, each (R,), of the first ``real`` (I,) of the ``reserved`` (I,) rows of each image."""
    image = np.repeat(np.arange(len(real)), real)
    place = np.arange(len(image)) - np.repeat(np.cumsum(real) - real, real)
    return (np.cumsum(reserved) - reserved)[image] + place, image


def mean_or_minus_one(values: Floats) -> float:
    """Mean of the values that are not nan; -1 if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else -1.0


def _truth_counts(truth: Annotations, num_classes: int) -> Ints:
    """Annotations to find, by class and area range: int64 (C, 4)."""
    columns = [np.bincount(truth.label[~ignored], minlength=num_classes) for ignored in truth.ignored.T]
    return np.stack(columns, axis=1)


def _recall(found: Detections, truth: Annotations, matches: Matches, num_classes: int) -> Floats:
    """Recall over all areas: float64 (C, 10) by class and IoU threshold; nan without truth."""
    hit = (matches.matched & ~matches.ignored)[:, 0]  # (M, 10)
    hit &= (found.rank < _MOST_DETECTIONS)[matches.detection, None]
    label = found.label[matches.detection]
    hits = np.stack([np.bincount(label[column], minlength=num_classes) for column in hit.T], axis=1)
    total = _truth_counts(truth, num_classes)[:, :1].astype(np.float64)
    total[total == 0] = np.nan
    return hits / total


def _average_precision(found: Detections, truth: Annotations, matches: Matches, num_classes: int) -> Floats:
    """Precision averaged over 101 recall levels: float64 (C, 4, 10), nan without truth.

    Recall grows, and interpolated precision peaks, at true positives only, so that others are skipped.
    """
    within = found.rank < _MOST_DETECTIONS
    outside = outside_areas(box_areas(found.boxes))[within]  # (D, 4)
    label = found.label[within]
    usable = within[matches.detection]
    place = (np.cumsum(within) - 1)[matches.detection[usable]]  # (M,) among the detections within
    row_label = label[place]
    start = np.searchsorted(label, np.arange(num_classes))[row_label]
    row_start = np.searchsorted(row_label, np.arange(num_classes))[row_label]
    result = np.empty((num_classes, len(AREA_RANGES), len(IOU_THRESHOLDS)))
    for area, truths in enumerate(_truth_counts(truth, num_classes).T):
        needed = hits_needed(truths)  # (C, 101)
        # Detections that count, up to each one of its class: first as if none were matched, then corrected.
        unmatched = ~outside[:, area]  # (D,)
        before = np.concatenate(([0], np.cumsum(unmatched)))
        plain = before[place + 1] - before[start]  # (M,)
        for threshold in range(len(IOU_THRESHOLDS)):
            matched = matches.matched[usable, area, threshold]
            ignored = matches.ignored[usable, area, threshold]
            change = np.where(matched, ~ignored, unmatched[place]).astype(np.int64) - unmatched[place]
            sums = np.concatenate(([0], np.cumsum(change)))
            total = plain + sums[1:] - sums[row_start]
            hits = np.flatnonzero(matched & ~ignored)
            of_class = row_label[hits]
            number = np.arange(1, len(hits) + 1) - np.searchsorted(of_class, of_class)
            curve = precision_at(needed, of_class, number, total[hits])
            result[:, area, threshold] = np.where(truths > 0, curve.mean(axis=1), np.nan)
    return result


def hits_needed(truths: Ints) -> Ints:
    """Least number of true positives, 1 or more, for each recall level: int64 (C, 101) from (C,)."""
    divisor = np.maximum(truths, 1)[:, None]
    needed: Ints = np.maximum(np.floor(RECALL_LEVELS * divisor) - 1, 0).astype(np.int64)
    for _ in range(3):  # rounding decides if k / n reaches the level, so test the division itself
        needed += needed / divisor < RECALL_LEVELS
    return needed.clip(min=1)


def precision_at(needed: Ints, label: Ints, hits: Ints, total: Ints) -> Floats:
    """Interpolated precision at each recall level: float64 (C, 101), zero if the recall is not reached.

    Args:
        needed: (C, 101), true positives needed for a level.
        label: (T,) classes of the true positives, ascending, best first in a class.
        hits: (T,) true positives counted up to each of them in its class.
        total: (T,) detections counted up to each of them.
    """
    if not len(label):
        return np.zeros(needed.shape)
    classes = np.arange(len(needed))[:, None]
    precision = hits / (total + np.spacing(1))
    # The best precision from here to the end of the class; steps of 2 keep the classes apart.
    step = 2.0 * (len(needed) - label)
    best = np.maximum.accumulate((precision + step)[::-1])[::-1] - step
    span = max(int(hits.max()), int(needed.max())) + 1  # keeps the classes apart, too
    wanted = np.searchsorted(label * span + hits, classes * span + needed)
    is_reached = wanted < np.searchsorted(label, classes, side="right")
    return np.where(is_reached, best[np.minimum(wanted, len(label) - 1)], 0.0)
