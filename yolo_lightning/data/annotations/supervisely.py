"""Reader of Supervisely projects."""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .outlines import Box, ShapeError, around
from .records import Label, NotLabelledError, Record, RecordReader, whole_size


@dataclass(frozen=True)
class SuperviselyReader(RecordReader):
    """``meta.json`` with the classes, and ``ann/a.jpg.json`` in each data set for its ``img/a.jpg``."""

    name = "supervisely"
    title = "Supervisely"

    @staticmethod
    def recognises(document: Any) -> bool:
        keys = document.keys() if isinstance(document, dict) else set()
        return {"objects", "size"} <= keys or {"classes", "tags"} <= keys

    @staticmethod
    def entries(document: Any, path: Path) -> Iterable[Any]:
        return [document] if "objects" in document else []

    @staticmethod
    def record(entry: Any, path: Path) -> Record:
        size = whole_size(entry["size"]["height"], entry["size"]["width"])
        folder = "../img/" if path.parent.name == "ann" else ""
        return Record([folder + path.stem], entry["objects"], size)

    @staticmethod
    def label(item: Any, record: Record) -> Label:
        kind = item.get("geometryType") or ("bitmap" if item.get("bitmap") else "polygon")
        if kind == "bitmap":
            box = _box_of_bitmap(item["bitmap"], record.size or (0, 0))
        elif kind in ("rectangle", "polygon"):
            points = item["points"]["exterior"]
            box = around((x for x, _ in points), (y for _, y in points), least=2)
        else:
            raise NotLabelledError(f"a {kind} has no box")
        return Label(item["classTitle"], box)

    @staticmethod
    def class_list(document: Any) -> list[str]:
        return [entry["title"] for entry in document.get("classes", ())]


def _box_of_bitmap(bitmap: Any, size: tuple[int, int]) -> Box:
    """The box around a mask, a compressed PNG; ``size`` is that of the image, which a mask cannot exceed."""
    x, y = bitmap["origin"]
    unpacker = zlib.decompressobj()
    try:
        png = unpacker.decompress(base64.b64decode(bitmap["data"]), 8 * size[0] * size[1] + 4096)
        width, height = struct.unpack(">II", png[16:24])
        if width > size[1] or height > size[0]:
            raise ShapeError(f"its mask of {width} x {height} px is larger than the image")
        mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    except (binascii.Error, zlib.error, struct.error, cv2.error):
        mask = None
    if mask is None:
        raise ShapeError("its bitmap is no PNG")
    rows, columns = np.nonzero(mask if mask.ndim == 2 else mask[..., -1])
    if not len(rows):
        return x, y, x, y
    left, top = x + int(columns.min()), y + int(rows.min())
    return left, top, x + int(columns.max()) + 1, y + int(rows.max()) + 1
