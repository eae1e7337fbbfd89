"""Reader of "CVAT for images 1.1" XML."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from .image_files import split_in
from .outlines import Box, around, around_ellipse, around_turned
from .records import Label, NotLabelledError, Record, RecordReader, whole_size


@dataclass(frozen=True)
class CvatReader(RecordReader):
    """Images with their shapes; ``subset`` is the split."""

    name = "cvat"
    title = "CVAT for images"
    suffix = ".xml"

    @staticmethod
    def recognises(document: Any) -> bool:
        return document.tag == "annotations" and document.find("meta") is not None

    @staticmethod
    def entries(document: Any, path: Path) -> Iterable[Any]:
        if document.find("track") is not None:
            raise InputError(f"{path}: these are annotations of a video; export them as CVAT for images 1.1")
        return document.iterfind("image")

    @staticmethod
    def record(entry: Any, path: Path) -> Record:
        size = whole_size(entry.get("height"), entry.get("width"))
        shapes = [item for item in entry if item.tag != "tag"]
        return Record([entry.attrib["name"]], shapes, size, split_in([entry.get("subset", "")]))

    @staticmethod
    def label(item: Any, record: Record) -> Label:
        return Label(item.attrib["label"], _box(item.tag, item.attrib))

    @staticmethod
    def class_list(document: Any) -> list[str]:
        return [
            text for element in document.iterfind("meta/*/labels/label") if (text := element.findtext("name"))
        ]


def _box(kind: str, shape: dict[str, str]) -> Box:
    degrees = float(shape.get("rotation", 0))
    if kind == "box":
        box = float(shape["xtl"]), float(shape["ytl"]), float(shape["xbr"]), float(shape["ybr"])
        return around_turned(box, degrees, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
    if kind == "polygon":
        points = [pair.split(",") for pair in shape["points"].split(";")]
        return around((x for x, _ in points), (y for _, y in points), least=3)
    if kind == "ellipse":
        return around_ellipse(shape["cx"], shape["cy"], shape["rx"], shape["ry"], math.radians(degrees))
    if kind == "mask":
        x, y = float(shape["left"]), float(shape["top"])
        return x, y, x + float(shape["width"]), y + float(shape["height"])
    raise NotLabelledError(f"a {kind.removesuffix('s')} has no box")
