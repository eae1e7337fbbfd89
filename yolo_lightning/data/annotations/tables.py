"""Reader of CSV tables with one box a line, as Roboflow and VoTT write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .image_files import split_in
from .records import Label, Record, RecordReader, whole_size

_WITHOUT_HEADER = ("filename", "xmin", "ymin", "xmax", "ymax", "class")
_OF_VOTT = {"image": "filename", "label": "class"}


@dataclass(frozen=True)
class TableReader(RecordReader):
    """``filename,width,height,class,xmin,ymin,xmax,ymax``, or ``filename,xmin,ymin,xmax,ymax,class``.

    VoTT writes ``image`` for filename and ``label`` for class.
    """

    name = "csv"
    title = "CSV table"
    suffix = ".csv"

    @staticmethod
    def recognises(document: Any) -> bool:
        return {*_WITHOUT_HEADER} <= {*_header(document)} or _has_no_header(document) if document else False

    @staticmethod
    def entries(document: Any, path: Path) -> Iterable[Any]:
        keys = _WITHOUT_HEADER if _has_no_header(document) else _header(document)
        images: dict[str, list[dict[str, str]]] = {}
        for line in document[0 if keys is _WITHOUT_HEADER else 1 :]:
            if line:
                row = dict(zip(keys, line, strict=False))
                images.setdefault(row["filename"], []).append(row)
        return images.items()

    @staticmethod
    def record(entry: Any, path: Path) -> Record:
        name, rows = entry
        boxes = [row for row in rows if row.get("xmin") or row.get("class")]  # a name alone has no objects
        return Record([name], boxes, whole_size(rows[0].get("height"), rows[0].get("width")))

    @staticmethod
    def label(item: Any, record: Record) -> Label:
        x1, y1, x2, y2 = (float(item[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
        return Label(item["class"], (x1, y1, x2, y2))

    @staticmethod
    def split_rule(place: Path) -> Callable[[Path, Record], str]:
        by_folder = RecordReader.split_rule(place)
        return lambda path, record: split_in(re.split("[_-]", path.stem)) or by_folder(path, record)


def _header(document: Any) -> list[str]:
    return [_OF_VOTT.get(key, key) for key in (text.strip().lower() for text in document[0])]


def _has_no_header(document: Any) -> bool:
    first = document[0]
    return len(first) == 6 and all(text.replace(".", "").isdigit() or not text for text in first[1:5])
