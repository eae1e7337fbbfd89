"""Copy-paste of classic YOLOv5: objects cut out along their outlines and pasted mirrored into their image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ..annotations.index import FloatArray
from ..annotations.outlines import Points
from .decode import Pixels

MOST_COVERED = 0.3
"""Share of a box that a pasted box may cover, as in the classic code."""
_STREAM = 1
"""Sets the random numbers apart from those of ``Effects``."""


class CopyPaste(NamedTuple):
    """Copy-paste of a share of the objects: a function of (seed, epoch, index)."""

    seed: int
    share: float  # 0..1, of the objects with an outline that are to be pasted

    def most_labels(self, labels: int) -> int:
        """Most labels of an image that had some before."""
        return labels + round(self.share * labels)

    def apply(
        self, image: Pixels, labels: FloatArray, outlines: Sequence[Points], epoch: int, index: int
    ) -> FloatArray:
        """Paste objects into an image in place.

        A mirrored object that would cover too much of a label, or of an object pasted before, is left out.

        Args:
            image: uint8 (H, W, 3), without padding.
            labels: float32 (n, 5): class, x1, y1, x2, y2 in px of the image.
            outlines: The outline of each label in px, see ``Outlines``.
            epoch: Epoch of the training.
            index: Number of the image in ``TrainSampler.order``.

        Returns:
            Labels of the pasted objects, float32 (m, 5).
        """
        random = np.random.default_rng((self.seed, epoch, index, _STREAM))
        height, width = image.shape[:2]
        drawn = random.permutation([n for n, outline in enumerate(outlines) if len(outline)]).astype(int)
        mask = np.zeros((height, width), np.uint8)  # 1 where an object is copied from
        present = labels
        for n in drawn[: round(self.share * len(drawn))].tolist():
            label, x1, y1, x2, y2 = labels[n]
            box = np.array((width - x2, y1, width - x1, y2), np.float32)
            if (covered(box, present[:, 1:]) < MOST_COVERED).all():
                present = np.concatenate((present, [[label, *box]])).astype(np.float32)
                _fill(mask, outlines[n])
        paste_here = mask[:, ::-1].astype(bool)
        image[paste_here] = image[:, ::-1][paste_here]
        return present[len(labels) :]


def covered(box: FloatArray, boxes: FloatArray) -> npt.NDArray[np.float64]:
    """Share of each of some boxes (n, 4) that a box (4,) covers, (n,); all are xyxy."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = (high - low).clip(0).prod(axis=1, dtype=np.float64)
    return shared / ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1, dtype=np.float64) + 1e-16)


def _fill(mask: Pixels, outline: Points) -> None:
    """Set a mask (H, W) to 1 inside each polygon of an outline."""
    inside = outline.clip(0, (mask.shape[1], mask.shape[0]))
    ends = [*np.flatnonzero(np.isnan(inside[:, 0])), len(inside)]
    for begin, end in zip([0, *(end + 1 for end in ends)], ends, strict=False):
        cv2.drawContours(mask, [inside[begin:end].astype(np.int32)], -1, (1,), cv2.FILLED)
