"""Anchors that fit the labels of a data set: how well they do, and a search for better ones.

The measure and the search are those of ultralytics/yolov5 v7.0 (``utils/autoanchor.py``): k-means, then a
thousand random changes of which the improvements are kept. Here k-means works on logarithms, because a label
matches an anchor by the ratio of their sides, and every draw is seeded.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

GENERATIONS = 1000
_MOST_LABELS = 20_000
"""Labels that a search looks at; more of them take time and change nothing."""
_KMEANS_STARTS, _KMEANS_ROUNDS = 5, 50
_LEAST_PX = 2.0
"""Least side of an anchor."""


def best_possible_recall(sizes_px: Floats, anchors_px: Floats, threshold: float) -> float:
    """Share of labels (T, 2) that at least one of the anchors (K, 2) matches, 0..1.

    ``threshold`` is the ratio of two sides from which on they do not match.
    """
    return float(np.mean(_likeness(np.log(sizes_px), np.log(anchors_px)) > 1 / threshold))


def find_anchors(sizes_px: Floats, count: int, threshold: float, seed: int = 0) -> Floats:
    """Find anchors for labels.

    Args:
        sizes_px: (T, 2) width and height of the labels in the network's input, above 0, T at least 1.
        count: number of anchors K.
        threshold: ratio of two sides from which on they do not match, above 1.
        seed: seed of the search.

    Returns:
        (K, 2) width and height in px, by growing area.
    """
    random = np.random.default_rng(seed)
    if len(sizes_px) > _MOST_LABELS:
        sizes_px = random.choice(sizes_px, _MOST_LABELS, replace=False)
    logs = np.log(sizes_px, dtype=np.float32)  # (T, 2)
    anchors = _evolve(logs, _k_means(logs, count, random), threshold, random)
    found = np.exp(anchors)
    return found[np.argsort(found.prod(axis=1), kind="stable")].astype(np.float32)


def _likeness(sizes: Floats, anchors: Floats) -> Floats:
    """Smaller ratio of sides (T,), 0..1, of labels (T, 2) and their best anchor of (K, 2); all logarithms."""
    width, height = (np.abs(sizes[:, side] - anchors[:, side, None]) for side in (0, 1))  # (K, T)
    return np.exp(-np.maximum(width, height).min(axis=0))


def _k_means(points: Floats, count: int, random: np.random.Generator) -> Floats:
    """Centres (K, 2) of the clusters of points (T, 2) with the least squared distance, of several starts."""
    best, least = points[:count], np.inf
    for _ in range(_KMEANS_STARTS):
        centres = random.choice(points, count, replace=len(points) < count)
        for _ in range(_KMEANS_ROUNDS):
            squares = ((points[:, None] - centres[None]) ** 2).sum(axis=2)  # (T, K)
            nearest = squares.argmin(axis=1)
            sizes = np.bincount(nearest, minlength=count)
            sums = np.stack([np.bincount(nearest, points[:, side], count) for side in (0, 1)], axis=1)
            moved = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)
            if np.allclose(moved, centres, atol=1e-4):
                break
            centres = moved.astype(np.float32)
        if (distance := float(squares.min(axis=1).sum())) < least:
            best, least = centres, distance
    return best


def _evolve(points: Floats, anchors: Floats, threshold: float, random: np.random.Generator) -> Floats:
    """Change anchors at random and keep what is fitter, as in yolov5; logarithms (T, 2) and (K, 2).

    The fitness is yolov5's, the mean likeness where labels that no anchor matches count 0, plus the recall.
    """

    def fitness(trial: Floats) -> float:
        likeness = _likeness(points, trial)
        return float(np.mean((1 + likeness) * (likeness > 1 / threshold)))

    best = fitness(anchors)
    for _ in range(GENERATIONS):
        changed = random.random(anchors.shape) < 0.9
        factors = 1 + changed * random.random() * random.standard_normal(anchors.shape) * 0.1
        trial = np.maximum(anchors + np.log(factors.clip(0.3, 3.0)), np.log(_LEAST_PX)).astype(np.float32)
        if (found := fitness(trial)) > best:
            best, anchors = found, trial
    return anchors
