"""Rectangles of training batches (``data.rect``): few shapes, so that the step compiles few times."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from ..annotations.index import IntArray
from ..image_size import Size
from ..letterbox import enclosing_rectangle, letterbox_geometry

MOST_RECTANGLES = 3
"""Shapes besides the square, which takes images of unequal shapes in one batch."""


def training_rectangles(sizes: npt.NDArray[np.int32], image_size: Size, stride: int) -> IntArray:
    """Height and width in px of the batch that each image trains in, int64 (I, 2), of at most three shapes.

    Shapes are multiples of ``stride`` around images scaled into ``image_size`` px. Images of neighbouring
    aspect ratios share a shape that holds them all; of all ways to do so, the one with the smallest area of
    all images is taken. ``sizes`` (I, 2) are heights and widths.
    """
    scaled = [letterbox_geometry(height, width, image_size) for height, width in sizes.tolist()]
    own = np.array([enclosing_rectangle(each.height, each.width, stride, 0) for each in scaled], np.int64)
    shapes, kind, counts = np.unique(
        own, axis=0, return_inverse=True, return_counts=True
    )  # (K, 2), (I,), (K,)
    order = np.argsort(shapes[:, 0] - shapes[:, 1], kind="stable")  # wide, square, tall
    shapes, counts = shapes[order], counts[order]

    def merged(first: int, stop: int) -> IntArray:
        shape: IntArray = shapes[first:stop].max(axis=0)
        return shape

    count = len(shapes)
    area = {
        (a, b): int(merged(a, b).prod() * counts[a:b].sum())
        for a in range(count)
        for b in range(a + 1, count + 1)
    }
    cuts = combinations(range(1, count), min(MOST_RECTANGLES, count) - 1)
    best = min(
        ((0, *cut, count) for cut in cuts), key=lambda ends: sum(area[pair] for pair in pairwise(ends))
    )
    of_shape = np.concatenate([np.tile(merged(a, b), (b - a, 1)) for a, b in pairwise(best)])  # (K, 2)
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    rectangles: IntArray = of_shape[place[kind.reshape(-1)]]
    return rectangles
