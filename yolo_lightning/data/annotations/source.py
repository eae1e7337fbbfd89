"""Source of a data set: its paths, its format, and the reader of that format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ...errors import InputError
from .coco import CocoReader, read_categories
from .cvat import CvatReader
from .darknet import DarknetReader, PlainYoloReader
from .documents import find_broken
from .findings import refuse_errors
from .index import DatasetIndex
from .index_cache import read_once
from .label_studio import LabelStudioReader
from .labelme import LabelmeReader
from .reader import Classes, SplitReader
from .selection import Selection
from .single_coco import SingleCocoReader
from .supervisely import SuperviselyReader
from .tables import TableReader
from .val_share import take_share
from .via import ViaReader
from .voc import VocReader
from .vott import VottReader
from .yolo import YoloReader

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

MOST_CLASSES = 100_000

FORMATS: tuple[type[SplitReader], ...] = (
    SingleCocoReader,
    CocoReader,
    YoloReader,
    DarknetReader,
    VocReader,
    CvatReader,
    SuperviselyReader,
    LabelmeReader,
    ViaReader,
    VottReader,
    LabelStudioReader,
    TableReader,
    PlainYoloReader,
)
"""The first that recognises a folder reads it: a folder with both is COCO; its data.yaml, given, is YOLO."""
FORMAT_NAMES = tuple(dict.fromkeys(reader.name for reader in FORMATS))


@dataclass(frozen=True)
class DataSource:
    """Paths of a data set: a root, and paths that override those found under it.

    Raises:
        InputError: ``format`` or ``val_share`` is out of range.
    """

    root: Path | None = None  # folder of the data set, or its data.yaml
    annotations: dict[Split, Path] = field(default_factory=dict)  # COCO JSON of a split
    images: dict[Split, Path] = field(default_factory=dict)  # folder of the images (YOLO: or a .txt list)
    allow_outside: bool = False  # images may lie outside of these
    format: str = "auto"  # or one of FORMAT_NAMES
    val_share: float = 0.0  # share of the images that validates if there is no val split
    selection: Selection = field(default_factory=Selection)  # labels and images that are taken
    keep_outlines: bool = False  # keep the outlines of objects in the indices

    def __post_init__(self) -> None:
        if self.format not in ("auto", *FORMAT_NAMES):
            raise InputError(f"data.format '{self.format}' is unknown; use auto, {', '.join(FORMAT_NAMES)}")
        if not 0 <= self.val_share < 1:
            raise InputError(f"data.val_share {self.val_share} is out of range; use 0 to 0.99")

    def locate(self) -> tuple[type[SplitReader], Path]:
        """The format of the root, and what its ``find`` returned.

        Raises:
            InputError: There is no root, it does not exist, or it is of no known format.
        """
        root = self.root
        if root is None:
            raise InputError("no data set: give its folder as --data.root")
        if not root.exists():
            raise InputError(f"{root}: the folder does not exist; correct --data.root")
        for reader in FORMATS:
            place = reader.find(root) if self.format in ("auto", reader.name) else None
            if place is not None:
                return reader, place
        if self.format != "auto":
            raise InputError(
                f"{root}: no {self.format} data set found; correct --data.format, or leave it out"
            )
        if deeper := _data_set_in(root):
            raise InputError(f"{root}: no data set found, but one in {deeper}; give it as --data.root")
        raise InputError(
            f"{root}: no data set found; {find_broken(root)}a COCO data set has "
            "annotations/instances_train.json and instances_val.json with images/train and images/val "
            "(Roboflow's: train/_annotations.coco.json and valid/_annotations.coco.json), a YOLO data set "
            "has data.yaml with images/... and labels/..., and other formats "
            f"({', '.join(FORMAT_NAMES[2:])}) are told by their files"
        )

    def splits(self) -> list[Split]:
        """The splits that can be read: those that there are, and val if it is a share of train."""
        found: set[str] = set(self.annotations)
        if not (found and self.root is None):
            kind, place = self.locate()
            found |= kind.splits(place) | self.images.keys()
        return [split for split in SPLITS if split in found or (split == "val" and self._is_shared(split))]

    def _is_shared(self, split: Split) -> bool:
        """True if train and val have to share the images of train.

        Where a COCO JSON or a data.yaml names the training split, a missing val split is a mistake.
        """
        if split == "test" or not self.val_share or self.annotations or "val" in self.images:
            return False
        kind, place = self.locate()
        found = kind.splits(place) if kind not in (CocoReader, YoloReader) else set()
        return "train" in found and "val" not in found

    def read(self, split: Split, keep: bool = False) -> DatasetIndex:
        """Read one split without errors, see :meth:`find_errors`.

        Raises:
            InputError: The split is missing, or something in it is wrong.
        """
        index = self.find_errors(split, keep)
        refuse_errors(index.findings)
        return index

    def find_errors(self, split: Split, keep: bool = False) -> DatasetIndex:
        """Read and validate one split; images of errors are left out, and there may be none left.

        Without a val split, train and val share the images of train, see :func:`take_share`. The
        ``selection`` is applied. ``keep`` uses the index cache: take the index from its file if nothing has
        changed since, or write it.

        Raises:
            InputError: The split is missing, or cannot be read as a whole.
        """
        if self._is_shared(split):
            whole = replace(self, val_share=0.0, selection=Selection()).find_errors("train", keep)
            return self.selection.apply(take_share(whole, split, self.val_share))
        images = self.images.get(split)
        if images is not None and not images.exists():
            raise InputError(f"{images}: the images do not exist; correct --data.{split}_images")
        if split in self.annotations:
            folder = self.root if self.root is None or self.root.is_dir() else self.root.parent
            reader: SplitReader = CocoReader(self.annotations[split], split, images, folder)
        else:
            kind, place = self.locate()
            reader = replace(kind.of_split(place, split, images), is_given=place == self.root)
        reader = replace(reader, allow_outside=self.allow_outside, keep_outlines=self.keep_outlines)
        index = replace(read_once(reader) if keep else reader.read(), layout=reader.layout)
        reference = self._training_classes()
        return self.selection.apply(index.with_classes(*reference) if reference else index)

    def classes(self, splits: Sequence[Split] = ("val", "train")) -> Classes:
        """The selected classes alone, from the YAML or from the smallest annotation file of ``splits``.

        Other splits that have the same names get the numbers of those to train with.

        Raises:
            InputError: There is no data set, or its classes cannot be read.
        """
        found = self._classes_of(splits)
        reference = self._training_classes() if "test" in splits else None
        numbered = reference if reference and set(found[0]) <= set(reference[0]) else found
        return self.selection.rename(numbered, self.root or "the data set")

    def _training_classes(self) -> Classes | None:
        """The classes that ``fit`` takes; None if they cannot be read: a test needs no other split."""
        try:
            return self._classes_of(("val", "train"))
        except (InputError, OSError):
            return None

    def _classes_of(self, splits: Sequence[Split]) -> Classes:
        files = [path for split, path in self.annotations.items() if split in splits and path.is_file()]
        if files:
            return _few(read_categories(*files))
        missing = next(iter(self.annotations.values()), None)
        if missing is not None and self.root is None:
            raise InputError(f"{missing}: the annotations do not exist; correct the path")
        reader, place = self.locate()
        return _few(reader.classes(place, splits))


def _data_set_in(root: Path) -> Path | None:
    """The first folder in ``root`` that is a data set; ``root`` is one folder too high then."""
    patterns = ("*/data.yaml", "*/annotations/instances_*.json")
    found = (path for pattern in patterns for path in sorted(root.glob(pattern)))
    return next((root / path.relative_to(root).parts[0] for path in found if path.is_file()), None)


def _few(classes: Classes) -> Classes:
    """Refuse classes for which no network fits into a memory."""
    if len(classes[0]) > MOST_CLASSES:
        raise InputError(f"the data set has {len(classes[0]):,} classes; use at most {MOST_CLASSES:,}")
    return classes
