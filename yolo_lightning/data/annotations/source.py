"""Source of a data set: its paths, its format, and the reader of that format.

A folder with ``annotations/instances_*.json`` is COCO, any other with a ``data.yaml`` is YOLO. The path of
a ``data.yaml`` instead of the folder always means YOLO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...errors import InputError
from .coco import annotation_file, read_categories
from .index import DatasetIndex
from .index_cache import CocoReading, Reading, YoloReading, read_once
from .yolo import data_yaml, read_data_yaml

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class DataSource:
    """Paths of a data set: a root, and paths that override those found under it."""

    root: Path | None = None
    """Folder of the data set, or its data.yaml."""
    annotations: dict[Split, Path] = field(default_factory=dict)
    """COCO JSON of a split."""
    images: dict[Split, Path] = field(default_factory=dict)
    """Folder of the images of a split (YOLO: or a .txt list)."""

    def layout(self) -> tuple[Literal["coco", "yolo"], Path]:
        """The format of the root, and its folder (COCO) or its data.yaml (YOLO).

        Raises:
            InputError: There is no root, it does not exist, or it is neither.
        """
        root = self.root
        if root is None:
            raise InputError("no data set: give its folder as --data.root")
        if root.is_file() and root.suffix in {".yaml", ".yml"}:
            return "yolo", root
        if not root.is_dir():
            raise InputError(f"{root}: the folder does not exist; correct --data.root")
        if any((root / "annotations").glob("instances_*.json")):
            return "coco", root
        yaml_file = data_yaml(root)
        if yaml_file is not None:
            return "yolo", yaml_file
        raise InputError(
            f"{root}: no data set found; a COCO data set has annotations/instances_train.json and "
            f"instances_val.json with images/train and images/val, a YOLO data set has data.yaml with "
            f"images/... and labels/..."
        )

    def has(self, split: Split) -> bool:
        """True if the data set names a split, whether or not its files exist."""
        if split in self.annotations:
            return True
        if self.root is None:
            return False
        layout, path = self.layout()
        if layout == "coco":
            return annotation_file(path, split) is not None
        return split in self.images or split in read_data_yaml(path).splits

    def read(self, split: Split, keep: bool = False) -> DatasetIndex:
        """Read and validate one split.

        Args:
            split: The split.
            keep: Use the index cache: take the index from its file if nothing has changed since, or write it.

        Raises:
            InputError: The split is missing, or something in it is wrong.
        """
        reading = self._reading(split)
        return read_once(reading) if keep else reading.read()

    def _reading(self, split: Split) -> Reading:
        """The reader of a split, with its arguments."""
        images = self.images.get(split)
        if images is not None and not images.exists():
            raise InputError(f"{images}: the images do not exist; correct --data.{split}_images")
        if split in self.annotations:
            folder = self.root if self.root is None or self.root.is_dir() else self.root.parent
            return CocoReading(self.annotations[split], split, images, folder)
        layout, path = self.layout()
        if layout == "yolo":
            return YoloReading(path, split, images)
        found = annotation_file(path, split)
        if found is None:
            raise InputError(
                f"{path}: there is no {split} split; add annotations/instances_{split}.json or give "
                f"--data.{split}_annotations and --data.{split}_images"
            )
        return CocoReading(found, split, images, path)

    def class_names(self, splits: Sequence[Split] = ("val", "train")) -> tuple[str, ...]:
        """The class names alone, from the YAML or from the smallest annotation file of ``splits``."""
        files = [path for split, path in self.annotations.items() if split in splits and path.is_file()]
        if not files:
            missing = next(iter(self.annotations.values()), None)
            if missing is not None and self.root is None:
                raise InputError(f"{missing}: the annotations do not exist; correct the path")
            layout, path = self.layout()
            if layout == "yolo":
                return read_data_yaml(path).class_names
            found = [annotation_file(path, split) for split in splits]
            files = [file for file in found if file] or list((path / "annotations").glob("instances_*.json"))
        return read_categories(min(files, key=lambda file: (file.stat().st_size, file.name)))


def read_class_names(
    root: str | Path | None,
    train_annotations: str | Path | None = None,
    val_annotations: str | Path | None = None,
    test_annotations: str | Path | None = None,
    splits: Sequence[Split] = ("val", "train"),
) -> tuple[str, ...]:
    """The class names of a data set, fast enough to be read while options are parsed.

    Args:
        root: Folder of the data set, or its data.yaml.
        train_annotations: COCO JSON that overrides the one under ``root``.
        val_annotations: As ``train_annotations``.
        test_annotations: As ``train_annotations``.
        splits: The splits to look at; others may be broken or missing.

    Raises:
        InputError: There is no data set, or its classes cannot be read.
    """
    given = dict(zip(SPLITS, (train_annotations, val_annotations, test_annotations), strict=True))
    annotations = {split: Path(path) for split, path in given.items() if path is not None}
    return DataSource(None if root is None else Path(root), annotations).class_names(splits)
