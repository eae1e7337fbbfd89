"""Reader of a COCO JSON that has all images of a data set, without splits."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from .coco import CocoReader, read_categories
from .documents import LOOKED_AT
from .reader import Classes
from .yolo import data_yaml

_PLACES = ("annotations/*.json", "*.json")
_KEYS = (b'"images"', b'"annotations"', b'"categories"')


@dataclass(frozen=True)
class SingleCocoReader(CocoReader):
    """CVAT's ``annotations/instances_default.json``, Label Studio's ``result.json``, or any other alone."""

    @staticmethod
    def find(root: Path) -> Path | None:
        if root.is_file():
            return root if root.suffix.lower() == ".json" and _is_coco(root) else None
        if CocoReader.splits(root) or data_yaml(root):
            return None
        for pattern in _PLACES:
            files = sorted(root.glob(pattern))
            # Of many, each is of one image.
            found = [path for path in files if len(files) <= LOOKED_AT and _is_coco(path)]
            if len(found) > 1:
                names = ", ".join(str(path.relative_to(root)) for path in found)
                raise InputError(
                    f"{root}: {names} are all COCO annotations, and none is named after a split; rename them "
                    "to annotations/instances_train.json and instances_val.json, or give one as --data.root"
                )
            if found:
                return found[0]
        return None

    @staticmethod
    def classes(place: Path, splits: Sequence[str]) -> Classes:
        return read_categories(place)

    @classmethod
    def splits(cls, place: Path) -> frozenset[str]:
        return frozenset({"train"})

    @classmethod
    def of_split(cls, place: Path, split: str, images: Path | None) -> CocoReader:
        if split != "train":
            raise InputError(f"{place}: there is no {split} split; give --data.{split}_annotations")
        return cls(place, split, images)

    @property
    def layout(self) -> str:
        return "COCO in one file"


def _is_coco(path: Path) -> bool:
    """True if a file has the keys of COCO: a search, as reading may take long."""
    if not path.is_file() or path.name.startswith(".") or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return all(text.find(key) >= 0 for key in _KEYS)
