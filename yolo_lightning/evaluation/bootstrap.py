"""Bootstrap over validation images: confidence intervals of mean average precision and of differences.

A resample draws as many images as there are, with replacement. An image drawn twice counts twice, exactly
as if it stood in the data set twice (only where two scores of one class are equal in one image, the copies
of the first detection come before those of the second). The matches of an image do not depend on other
images, so a resample only counts them again, with a weight for each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .coco_matching import IOU_THRESHOLDS, Floats, Ints
from .image_matches import ImageMatches
from .mean_average_precision import hits_needed, mean_or_minus_one, precision_at

RESAMPLES = 1000
_PERCENTILES = (2.5, 97.5)


class Estimate(NamedTuple):
    """A figure, and its 95 % interval (percentiles of the resamples)."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """The difference in words: ``better``, ``worse`` or ``no difference shown``."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no difference shown"


def estimate_map(matches: ImageMatches, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Mean average precision with its interval over images; resamples without a label do not count."""
    values = weighted_map(matches, draw_weights(len(matches.image_ids), resamples, seed))
    return _estimate(values[values >= 0])


def estimate_difference(
    first: Sequence[ImageMatches],
    second: Sequence[ImageMatches],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Mean average precision of ``second`` minus that of ``first``, with its interval.

    It is paired: each resample has the same images for all runs. With several runs on a side, which differ in
    their seed, a side is their mean, and each resample also draws among them with replacement. Their
    deviations from the mean are scaled by sqrt(n / (n - 1)), because n draws of n runs vary too little. With
    one run on a side the interval covers no other seed.

    Args:
        first: matches of one run or more, all on the same images.
        second: likewise.
        resamples: number of resamples.
        seed: seed of the resamples.
    """
    weights = draw_weights(len(first[0].image_ids), resamples, seed)
    generator = np.random.default_rng((seed, 1))
    sides = []
    for runs in (first, second):
        maps = np.stack([weighted_map(run, weights) for run in runs])  # (n, 1 + R)
        mean = maps.mean(axis=0)
        if (n := len(runs)) > 1:
            drawn = generator.integers(n, size=(n, len(mean)))
            drawn[:, 0] = np.arange(n)
            deviations = np.take_along_axis(maps - mean, drawn, axis=0).mean(axis=0)
            mean = mean + deviations * np.sqrt(n / (n - 1))
        sides.append(mean)
    return _estimate(sides[1] - sides[0])


def draw_weights(images: int, resamples: int, seed: int) -> Ints:
    """How often each image is drawn: int64 (1 + R, I); the first row is all images once."""
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)
    return np.concatenate((np.ones((1, images), np.int64), drawn))


def _estimate(values: Floats) -> Estimate:
    low, high = np.percentile(values[1:], _PERCENTILES)
    return Estimate(float(values[0]), float(low), float(high))


def weighted_map(matches: ImageMatches, weights: Ints) -> Floats:
    """Mean average precision, as ``val/map``, with each image as often as its weight says.

    Args:
        matches: matches of a validation of I images.
        weights: int64 (R, I), 0 or more.

    Returns:
        float64 (R,); -1 without an annotation to find.
    """
    label = np.repeat(np.arange(matches.num_classes), np.diff(matches.first))  # (D,)
    thresholds = []
    for threshold in range(len(IOU_THRESHOLDS)):
        rows, ignored = matches.rows(threshold)  # (h,) and (i,)
        begin = matches.first[label[rows]]  # (h,), first detection of the class of each hit
        of_class = np.searchsorted(rows, begin)
        excused = np.searchsorted(ignored, rows), np.searchsorted(ignored, begin)
        thresholds.append((rows, begin, of_class, ignored, excused))
    result = np.empty(len(weights))
    for number, weight in enumerate(weights):
        truths = np.bincount(matches.truth_label, weight[matches.truth_image], matches.num_classes)
        needed = hits_needed(truths.astype(np.int64))  # (C, 101)
        counts = weight[matches.image]  # (D,)
        before = _sums(counts)
        precision = np.empty((matches.num_classes, len(IOU_THRESHOLDS)))
        for threshold, (rows, begin, of_class, ignored, excused) in enumerate(thresholds):
            total = before[rows + 1] - before[begin]
            if len(ignored):
                sums = _sums(counts[ignored])
                total -= sums[excused[0]] - sums[excused[1]]
            sums = _sums(counts[rows])
            hits = sums[1:] - sums[of_class]
            curve = precision_at(needed, label[rows], hits, total)
            precision[:, threshold] = np.where(truths > 0, curve.mean(axis=1), np.nan)
        result[number] = mean_or_minus_one(precision)
    return result


def _sums(values: Ints) -> Ints:
    """Sums of the first 0, 1, .. n values: (n + 1,)."""
    return np.concatenate(([0], np.cumsum(values)))
