"""Boxes around outlines: the polygons and run-length masks that COCO's ``segmentation`` holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in px."""


def box_around(segmentation: Any) -> Box:
    """The box around all polygons of an object, or around its mask; all zeros if the mask is empty.

    Raises:
        ValueError, TypeError, KeyError: It is neither.
    """
    if isinstance(segmentation, dict):
        return _box_of_mask(segmentation["counts"], segmentation["size"])
    numbers = [float(number) for part in _innermost(segmentation) for number in part]
    if len(numbers) < 6:  # four numbers may be two corners, or a corner and a size
        raise ValueError("a polygon has three points or more")
    return min(numbers[0::2]), min(numbers[1::2]), max(numbers[0::2]), max(numbers[1::2])


def _innermost(value: Any) -> Iterator[list[Any]]:
    """The lists of numbers in lists of any depth: tools nest polygons, or points, or neither."""
    if value and isinstance(value[0], list):
        for part in value:
            yield from _innermost(part)
    elif isinstance(value, list) and value and len(value) % 2 == 0:
        yield value
    else:
        raise ValueError("not pairs of numbers")


def _box_of_mask(counts: Any, size: Any) -> Box:
    """The box around a mask: lengths of its runs of 0 and 1 in turn, column by column."""
    height, width = (int(side) for side in size)
    lengths = np.array(_decode(counts) if isinstance(counts, str) else counts, np.int64)
    bounds = np.cumsum(lengths)
    if lengths.ndim != 1 or lengths.min(initial=0) < 0 or bounds[-1:].tolist() != [height * width]:
        raise ValueError("the runs do not fill the image")
    ones = lengths[1::2] > 0
    if not ones.any():
        return 0, 0, 0, 0
    first, last = bounds[:-1:2][ones], bounds[1::2][ones] - 1
    columns = first // height, last // height
    wraps = columns[0] != columns[1]  # such a run has the bottom of one column and the top of the next
    top = np.where(wraps, 0, first % height)
    bottom = np.where(wraps, height - 1, last % height)
    return int(columns[0].min()), int(top.min()), int(columns[1].max()) + 1, int(bottom.max()) + 1


def _decode(counts: str) -> list[int]:
    """The lengths in COCO's compressed text: five bits a letter, each the difference to the last but one."""
    lengths: list[int] = []
    value = shift = 0
    for letter in counts:
        code = ord(letter) - 48
        if not 0 <= code < 64 or shift > 60:
            raise ValueError("not the text of a mask")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:  # the last letter of a number; bit 16 is its sign
            value -= (code & 16) and 1 << shift
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return lengths
