"""Reader of Pascal VOC XML, as the VOC challenge, labelImg, Roboflow and CVAT write it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .documents import files_below
from .image_files import split_in
from .index import IMAGE_SUFFIXES
from .outlines import ShapeError, around
from .records import Label, Record, RecordReader, whole_size
from .spelling import path_parts, read_text


@dataclass(frozen=True)
class VocReader(RecordReader):
    """One XML an image, beside it or in a folder of its own; ``ImageSets/Main/train.txt`` lists splits.

    Tools write the edges of boxes, and these are taken as they are. The VOC challenge writes the first and
    the last pixel, counted from 1, so there 1 is subtracted from xmin and ymin. ``difficult`` objects are
    ignored in evaluation, as in VOC's own, and not trained on.
    """

    name = "voc"
    title = "Pascal VOC"
    suffix = ".xml"

    @staticmethod
    def recognises(document: Any) -> bool:
        return bool(document.tag == "annotation")

    @staticmethod
    def record(entry: Any, path: Path) -> Record:
        size = whole_size(entry.findtext("size/height"), entry.findtext("size/width"))
        database = entry.findtext("source/database") or ""
        first = 1.0 if database.startswith("The VOC20") else 0.0
        objects = [(item, first) for item in entry.findall("object") if item.findtext("deleted") != "1"]
        # A copied or renamed XML keeps the name of another image.
        names = (path.stem, (entry.findtext("filename") or "").strip())
        return Record(names, objects, size)

    @staticmethod
    def label(item: Any, record: Record) -> Label:
        element, first = item
        if outline := element.findall("polygon/pt"):  # LabelMe's XML
            box = around((p.findtext("x") for p in outline), (p.findtext("y") for p in outline), least=2)
            return Label(element.findtext("name"), box)
        corners = {key: element.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")}
        if lacking := [key for key, text in corners.items() if text is None]:
            raise ShapeError(f"its 'bndbox' has no {', '.join(lacking)}")
        x1, y1, x2, y2 = map(float, corners.values())
        is_difficult = (element.findtext("difficult") or "").strip() == "1"
        return Label(element.findtext("name"), (x1 - first, y1 - first, x2, y2), is_difficult)

    @staticmethod
    def split_rule(place: Path) -> Callable[[Path, Record], str]:
        texts = map(Path, files_below(place, ".txt"))
        lists = [path for path in texts if path.parent.parts[-2:] == ("ImageSets", "Main")]
        if not lists:
            return RecordReader.split_rule(place)
        splits: dict[tuple[Path, str], str] = {}  # by the folder above ImageSets, and the name without suffix
        for path in sorted(lists, key=lambda path: path.stem not in ("trainval", "default")):
            split = "train" if path.stem in ("trainval", "default") else split_in([path.stem])
            for line in read_text(path).splitlines() if split else ():
                if parts := path_parts(line.strip().strip('"')):
                    stem, suffix = os.path.splitext(parts[-1])
                    stem = stem if suffix.lower() in IMAGE_SUFFIXES else parts[-1]
                    splits[path.parents[2], stem] = split

        def rule(path: Path, record: Record) -> str:
            listed = (splits.get((folder, path.stem)) for folder in path.parents)
            return next(filter(None, listed), "none")

        return rule
