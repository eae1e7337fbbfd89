from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from yolo_lightning.data.annotations.outlines import box_around

SQUARE = (16.0, 12.0, 32.0, 24.0)


@pytest.mark.parametrize(
    "segmentation",
    [
        [[16, 12, 32, 12, 32, 24, 16, 24]],
        [16, 12, 32, 12, 32, 24, 16, 24],  # not in a list of polygons
        [[[16, 12], [32, 12], [32, 24]]],  # points in lists of their own
        [[16, 12, 20, 12, 20, 20], [30, 20, 32, 20, 32, 24]],
        [["16", "12", "32", "12", "32", "24"]],
    ],
)
def test_polygons(segmentation: Any) -> None:
    assert box_around(segmentation) == SQUARE


@pytest.mark.parametrize(
    "segmentation",
    [
        [[16, 12, 32, 24]],
        [[16, 12, 32, 12, 32]],
        [[]],
        ["16 12 32 12"],
        "16 12",
        [[16, 12, 32, 12, 32, "x"]],
        {"counts": [1, 2]},
        {"counts": [1, 2], "size": [4, 4]},
        {"counts": [20, -4], "size": [4, 4]},
        {"counts": "\x7f\x7f", "size": [4, 4]},
        {"counts": "o" * 40, "size": [4, 4]},
        {"counts": {}, "size": [4, 4]},
        {"counts": [16], "size": [4]},
    ],
)
def test_what_is_no_outline(segmentation: Any) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        box_around(segmentation)


def test_masks_as_pycocotools_does() -> None:
    masks = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for n in range(60):
        height, width = rng.integers(1, 90, 2)
        mask = np.zeros((height, width), np.uint8, order="F")
        top, left = rng.integers(0, height), rng.integers(0, width)
        part = mask[top : top + 1 + n, left : left + 1 + rng.integers(0, 9)]
        part[...] = rng.random(part.shape) < (0, 0.2, 1)[n % 3]
        encoded = masks.encode(mask)
        x, y, w, h = masks.toBbox(encoded)
        expected = (x, y, x + w, y + h)
        assert box_around({"size": [height, width], "counts": encoded["counts"].decode()}) == expected
        bounds = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel("F"), [2]]))) if mask.any() else None
        ends = [0, mask.size] if bounds is None else [0, *bounds.tolist()]
        runs = np.diff(sorted({*ends, mask.size})).tolist()
        if mask.ravel("F")[0]:
            runs = [0, *runs]
        assert box_around({"size": [height, width], "counts": runs}) == expected
