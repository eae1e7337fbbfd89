"""Image weights: images with classes that are rare or found badly are drawn more often."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..annotations.index import DatasetIndex

_BEST = 0.99
"""Average precision above which a class counts as no better, so that every labelled image can be drawn."""


class ImageWeights:
    """Weights of the images of an epoch, from the average precisions of the classes before it.

    Classic YOLOv5's: the weight of an image is the sum over its labels of (1 - AP)^2 of the class, divided by
    the labels of the class in the training set. An image without labels is never drawn.

    Attributes:
        class_ap: First epoch in which average precisions count, and those of the C classes; ascending.
            Checkpoints keep it.
    """

    def __init__(self) -> None:
        self.class_ap: list[tuple[int, list[float]]] = []

    def note(self, epoch: int, class_ap: list[float]) -> None:
        """Take average precisions of a validation in an epoch: C numbers of 0..1, NaN where there is none."""
        in_force = [entry for entry in self.class_ap if entry[0] <= epoch]
        self.class_ap = [*in_force[-1:], (epoch + 1, class_ap)]

    def of_epoch(self, epoch: int, index: DatasetIndex) -> npt.NDArray[np.float64]:
        """Weight of each image in an epoch, (I,); before the first validation all precisions are 0."""
        known = [np.array(ap) for first, ap in self.class_ap if first <= epoch]
        precision = known[-1] if known else np.zeros(len(index.class_names))
        judged = precision[~np.isnan(precision)]
        precision = np.where(np.isnan(precision), judged.mean() if len(judged) else 0, precision)
        used = index.trainable
        class_weights = (1 - precision.clip(0, _BEST)) ** 2 / np.maximum(index.class_counts, 1)
        image = index.image_of_row[used]
        weights: npt.NDArray[np.float64] = np.zeros(len(index))
        np.add.at(weights, image, class_weights[index.classes[used]])
        return weights
