"""Made detections with the annotations that they belong to, in the form that the metric takes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_MOST_TRUTH = 15


class Images(NamedTuple):
    """Arguments of ``CocoMeanAveragePrecision.update`` for I images."""

    image_ids: Tensor
    detections: Tensor
    detection_counts: Tensor
    truth: Tensor
    truth_counts: Tensor


def make_images(count: int, detections: int, classes: int) -> Images:
    """As a trained detector leaves them: some boxes near an annotation, most elsewhere with low scores.

    Args:
        count: I.
        detections: D, of every image.
        classes: C.
    """
    generator = np.random.default_rng(0)
    counts = generator.integers(0, _MOST_TRUTH + 1, count)  # 7.5 an image, as in COCO
    corner = generator.uniform(0, 400, (count, _MOST_TRUTH, 2))
    side = generator.uniform(8, 240, (count, _MOST_TRUTH, 2))
    label = generator.integers(0, classes, (count, _MOST_TRUTH, 1))
    crowd = generator.random((count, _MOST_TRUTH, 1)) < 0.02
    boxes = np.concatenate((corner, corner + side), axis=2)
    truth = np.concatenate((label, boxes, side.prod(2, keepdims=True) * 0.7, crowd), axis=2)
    found = np.empty((count, detections, 6))
    found[..., :2] = generator.uniform(0, 400, (count, detections, 2))
    found[..., 2:4] = found[..., :2] + generator.uniform(8, 240, (count, detections, 2))
    found[..., 4] = generator.random((count, detections)) ** 4
    found[..., 5] = generator.integers(0, classes, (count, detections))
    near = min(detections, 2 * _MOST_TRUTH)
    for place in range(near):
        source = place % _MOST_TRUTH
        moved = boxes[:, source] + generator.normal(0, 0.06, (count, 4)) * np.tile(side[:, source], 2)
        found[:, place, :4] = moved
        found[:, place, 4] = generator.random(count)
        right = generator.random(count) < 0.8
        found[:, place, 5] = np.where(right, label[:, source, 0], found[:, place, 5])
    return Images(
        image_ids=torch.arange(1, count + 1),
        detections=torch.from_numpy(found.astype(np.float32)),
        detection_counts=torch.full((count,), detections),
        truth=torch.from_numpy(truth.astype(np.float32)),
        truth_counts=torch.from_numpy(counts),
    )
