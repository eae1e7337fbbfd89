"""Reader of Label Studio's JSON and JSON-MIN exports."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .index import IMAGE_SUFFIXES
from .outlines import Box, around, around_ellipse, around_turned
from .records import Label, NotLabelledError, Record, RecordReader, whole_size
from .spelling import path_parts


@dataclass(frozen=True)
class LabelStudioReader(RecordReader):
    """Tasks. Of several annotations of a task, the first that is not cancelled counts."""

    name = "label-studio"
    title = "Label Studio"

    @staticmethod
    def recognises(document: Any) -> bool:
        tasks = document if isinstance(document, list) else []
        return any(
            isinstance(task, dict) and (_annotations(task) is not None or _short(task)) for task in tasks
        )

    @staticmethod
    def entries(document: Any, path: Path) -> Iterable[Any]:
        return document

    @staticmethod
    def record(entry: Any, path: Path) -> Record:
        annotations = _annotations(entry)
        if annotations is None:  # JSON-MIN
            data, results = entry, [{"value": item, **item} for item in _short(entry)]
        else:
            valid = [a["result"] for a in annotations if not a.get("was_cancelled")]
            if not valid:
                raise NotLabelledError("a task has no annotation")
            data, results = entry["data"], valid[0]
        named = {result.get("id") for result in results if _class(result)} - {None}
        shapes = [r for r in results if _is_shape(r) and (_class(r) or r.get("id") not in named)]
        texts = [value for value in data.values() if isinstance(value, str)]
        names = [text for text in texts if _is_image(text)] or texts or ["?"]
        # An upload has eight digits in front of the name that it had.
        names += [re.sub(r"^[0-9a-f]{8}-", "", path_parts(name)[-1]) for name in names]
        sizes = (whole_size(r.get("original_height"), r.get("original_width")) for r in shapes)
        return Record(names, shapes, next(sizes, None))

    @staticmethod
    def label(item: Any, record: Record) -> Label:
        value, label = item["value"], _class(item)
        if label is None:
            raise NotLabelledError("a shape has no label")
        if "rle" in value:
            raise NotLabelledError("a brush has no box")
        if ("points" not in value and not ({"width", "radiusX"} & value.keys())) or "keypointlabels" in value:
            raise NotLabelledError("a point has no box")
        return Label(label, _box(value, float(item["original_width"]), float(item["original_height"])))


def _box(value: Any, width: float, height: float) -> Box:
    """The box around a shape in per cent of the image's width and height in px."""
    if "points" in value:
        return around(
            (x * width / 100 for x, _ in value["points"]), (y * height / 100 for _, y in value["points"]), 3
        )
    x, y = float(value["x"]) * width / 100, float(value["y"]) * height / 100
    degrees = float(value.get("rotation") or 0)
    if "radiusX" in value:
        rx, ry = float(value["radiusX"]) * width / 100, float(value["radiusY"]) * height / 100
        return around_ellipse(x, y, rx, ry, math.radians(degrees))
    box = x, y, x + float(value["width"]) * width / 100, y + float(value["height"]) * height / 100
    return around_turned(box, degrees, (x, y))


def _annotations(task: Any) -> Any:
    """The annotations of a task; None in JSON-MIN."""
    return task.get("annotations", task.get("completions")) if "data" in task else None


def _short(task: Any) -> list[Any]:
    """The shapes of a task in JSON-MIN."""
    lists = (value for value in task.values() if isinstance(value, list))
    return [item for items in lists for item in items if isinstance(item, dict) and "original_width" in item]


def _is_shape(result: Any) -> bool:
    value = result.get("value")
    return isinstance(value, dict) and bool({"x", "points", "rle"} & value.keys())


def _class(result: Any) -> str | None:
    """The first label of a shape."""
    lists = (v for k, v in (result.get("value") or {}).items() if k.endswith("labels") and v)
    return next((str(v[0]) for v in lists), None)


def _is_image(value: str) -> bool:
    path = value.split("?d=")[-1].split("?")[0]
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES
