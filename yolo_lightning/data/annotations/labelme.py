"""Reader of LabelMe JSON, which X-AnyLabeling writes, too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .outlines import Box, around
from .records import Label, NotLabelledError, Record, RecordReader, whole_size

_LINES = ("point", "points", "line", "linestrip")


@dataclass(frozen=True)
class LabelmeReader(RecordReader):
    """One JSON an image. Shapes of one class with one ``group_id`` are parts of one object."""

    name = "labelme"
    title = "LabelMe"

    @staticmethod
    def recognises(document: Any) -> bool:
        return isinstance(document, dict) and "shapes" in document and "imagePath" in document

    @staticmethod
    def record(entry: Any, path: Path) -> Record:
        objects: dict[Any, list[Any]] = {}
        for n, shape in enumerate(entry["shapes"]):
            is_part = shape.get("group_id") is not None and shape.get("shape_type") not in _LINES
            key = (str(shape["label"]), shape["group_id"]) if is_part else n
            objects.setdefault(key, []).append(shape)
        size = whole_size(entry.get("imageHeight"), entry.get("imageWidth"))
        remedy = "save the picture in 'imageData' as a file" if entry.get("imageData") else "add it"
        names = [entry["imagePath"] or path.stem, path.stem]
        return Record(names, list(objects.values()), size, remedy=remedy)

    @staticmethod
    def label(item: Any, record: Record) -> Label:
        boxes = [_box(shape) for shape in item]
        xs, ys = [x for box in boxes for x in box[::2]], [y for box in boxes for y in box[1::2]]
        return Label(item[0]["label"], around(xs, ys))


def _box(shape: Any) -> Box:
    kind = shape.get("shape_type") or "polygon"
    xs, ys = [point[0] for point in shape["points"]], [point[1] for point in shape["points"]]
    if kind in _LINES:
        raise NotLabelledError(f"a {kind.removesuffix('s')} has no box")
    if kind == "circle":  # the centre, and a point of the edge
        radius = math.dist((xs[0], ys[0]), (xs[1], ys[1]))
        return xs[0] - radius, ys[0] - radius, xs[0] + radius, ys[0] + radius
    x1, y1, x2, y2 = around(xs, ys, least=3 if kind == "polygon" else 2)
    extra = int(kind == "mask")  # its corners are the first and the last pixel
    return x1, y1, x2 + extra, y2 + extra
