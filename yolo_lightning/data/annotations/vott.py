"""Reader of VoTT JSON: its export, and its files of one asset each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .documents import files_below
from .records import Label, NotLabelledError, Record, RecordReader, whole_size


@dataclass(frozen=True)
class VottReader(RecordReader):
    """Regions of assets; a region is one object for each of its tags."""

    name = "vott"
    title = "VoTT"

    @staticmethod
    def recognises(document: Any) -> bool:
        if not isinstance(document, dict):
            return False
        assets = document.get("assets")
        return {"asset", "regions"} <= document.keys() or (
            isinstance(assets, dict)
            and all(isinstance(a, dict) and {"asset", "regions"} <= a.keys() for a in assets.values())
        )

    @classmethod
    def annotation_files(cls, place: Path) -> list[str]:
        files = list(files_below(place, cls.suffix))
        exported = [path for path in files if path.endswith("-export.json")]
        return exported or files  # an export repeats the assets

    @staticmethod
    def entries(document: Any, path: Path) -> Iterable[Any]:
        return [document] if "asset" in document else document["assets"].values()

    @staticmethod
    def record(entry: Any, path: Path) -> Record:
        asset = entry["asset"]
        if asset.get("state") == 0:
            raise NotLabelledError("an image has not been visited")
        size = asset.get("size") or {}
        objects = [(region, tag) for region in entry["regions"] for tag in region["tags"] or [None]]
        return Record([asset["name"]], objects, whole_size(size.get("height"), size.get("width")))

    @staticmethod
    def label(item: Any, record: Record) -> Label:
        region, tag = item
        if tag is None:
            raise NotLabelledError("a region has no tag")
        box = region["boundingBox"]
        x, y = float(box["left"]), float(box["top"])
        return Label(tag, (x, y, x + float(box["width"]), y + float(box["height"])))

    @staticmethod
    def class_list(document: Any) -> list[str]:
        return [tag["name"] for tag in document.get("tags") or ()]
