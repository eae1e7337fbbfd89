"""Outlines of objects and boxes around them: COCO's polygons and run-length masks, and tools' shapes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in px."""


Points = npt.NDArray[np.float32]
"""Points of an outline, float32 (P, 2), x and y in px; a row of NaN parts two polygons of one object."""
_LARGEST_PX = 1e6


class Outlines(NamedTuple):
    """Outlines of T annotations as flat arrays."""

    points: Points  # of all outlines
    spans: npt.NDArray[np.int64]  # (T, 2), begin and end of each outline in ``points``; empty if unknown

    @classmethod
    def of(cls, outlines: Sequence[Points]) -> Outlines:
        """Flat arrays of outlines, which are without points where there is none."""
        ends = np.cumsum([0, *map(len, outlines)], dtype=np.int64)
        points = np.concatenate([np.empty((0, 2), np.float32), *outlines])
        return cls(points, np.stack((ends[:-1], ends[1:]), axis=1))

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Outlines:
        """The outlines of some annotations."""
        return self._replace(spans=self.spans[rows])

    def followed_by(self, other: Outlines) -> Outlines:
        """The outlines of the annotations of both."""
        moved = other.spans + len(self.points)
        return Outlines(np.concatenate((self.points, other.points)), np.concatenate((self.spans, moved)))


def points_of(segmentation: Any) -> Points:
    """The points of the polygons of a COCO annotation; none for a mask, or what is no polygon."""
    try:
        parts = [*_innermost(segmentation)]
        if all(len(part) == 2 for part in parts):  # a polygon as a list of points
            parts = [[number for part in parts for number in part]]
        polygons = [np.array(part, np.float64).reshape(-1, 2) for part in parts]
    except (KeyError, TypeError, ValueError, OverflowError):
        polygons = []
    if not all((np.abs(polygon) < _LARGEST_PX).all() for polygon in polygons):  # false for NaN
        polygons = []
    parting = np.full((1, 2), np.nan)
    rows = [row for polygon in polygons for row in (parting, polygon)][1:]
    return np.concatenate([np.empty((0, 2)), *rows]).astype(np.float32)


class ShapeError(ValueError):
    """A label that has no class or no box; the argument says what is wrong with it."""


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


def around(xs: Iterable[Any], ys: Iterable[Any], least: int = 1) -> Box:
    """The box around points.

    Raises:
        ShapeError: There are fewer than ``least`` points, or some are no pairs of numbers.
    """
    x, y = list(map(float, xs)), list(map(float, ys))
    if len(x) != len(y):
        raise ShapeError("its points are not pairs of numbers")
    if len(x) < least:
        raise ShapeError(f"it has fewer than {least} points")
    return min(x), min(y), max(x), max(y)


def around_ellipse(x: Any, y: Any, rx: Any, ry: Any, radians: float = 0.0) -> Box:
    """The box around an ellipse with the centre x, y, which is turned by an angle."""
    x, y, rx, ry = float(x), float(y), float(rx), float(ry)
    c, s = math.cos(radians), math.sin(radians)
    dx, dy = math.hypot(rx * c, ry * s), math.hypot(rx * s, ry * c)
    return x - dx, y - dy, x + dx, y + dy


def around_turned(box: Box, degrees: float, pivot: tuple[float, float]) -> Box:
    """The box around one that is turned clockwise around a point."""
    if not degrees:
        return box
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    px, py = pivot
    corners = [(x - px, y - py) for x in box[::2] for y in box[1::2]]
    return around((px + x * c - y * s for x, y in corners), (py + x * s + y * c for x, y in corners))
