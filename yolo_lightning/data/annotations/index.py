"""Index of a split: its annotations as flat arrays, without a Python object per box, cheap to share.

Every reader ends in ``build_index``, so that all give the same index of one data set:

* images are ordered by path, labels as in their file;
* classes are 0 .. C-1; ``category_ids`` are the sorted ids of the COCO JSON, or 1 .. C for YOLO;
* image ids are those of the JSON; for YOLO see :func:`ids_from_paths`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import InputError
from .findings import EVERY_IMAGE, Finding
from .outlines import Outlines

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
))
# fmt: on
"""Suffixes of the files that are images; ``images/decode.py`` reads these formats."""
SHOWN = 5  # names or problems that a message lists

_COLUMNS = ("classes", "boxes", "areas", "crowd", "trainable")
"""Fields of ``DatasetIndex`` with a row for each annotation."""
_BOX_FINDINGS = (
    (
        "box without area",
        "the box has no area inside the image and is not trained on",
        "correct or remove it",
    ),
    ("repeated label", "the label repeats an earlier one of the image and is not trained on", "remove it"),
    (
        "box out of the image",
        "the box reaches out of the image and is clipped to it for training",
        "correct it",
    ),
)
"""Kind, fault and remedy of labels without area, repeated labels, and labels that are clipped."""
_TOLERANCE_PX = 0.05
"""Differences up to this are rounding: labels are text, and six decimals of 10,000 px are 0.01 px."""


@dataclass(frozen=True, eq=False)
class DatasetIndex:
    """One split of a data set: I images, C classes, T annotations."""

    root: Path  # folder of the data set
    split: str  # train, val or test
    source: Path  # the COCO JSON or the YOLO data.yaml
    class_names: tuple[str, ...]  # of the classes 0 .. C-1
    category_ids: IntArray  # (C,), COCO id of each class, for results
    path_bytes: bytes  # the paths of all images, one after the other
    path_offsets: IntArray  # (I+1,), begin of each path in ``path_bytes``
    image_ids: IntArray  # (I,), unique
    sizes: npt.NDArray[np.int32]  # (I, 2), height and width in px, as the image is displayed (EXIF applied)
    offsets: IntArray  # (I+1,), the rows of image i are ``offsets[i]:offsets[i + 1]``
    classes: IntArray  # (T,), 0 .. C-1
    boxes: FloatArray  # (T, 4), xyxy in px of the original image, exactly as annotated
    areas: FloatArray  # (T,), px^2: ``area`` of the COCO JSON, otherwise the area of the box
    crowd: BoolArray  # (T,), ``iscrowd`` of COCO
    # False for crowds, exact duplicates of an earlier row of the image, and boxes without area inside it.
    trainable: BoolArray  # (T,)
    findings: tuple[Finding, ...]  # what is wrong; images of errors are left out of the index
    from_cache: bool = False  # read from its cache file
    layout: str = ""  # what the data set is, in words
    outlines: Outlines | None = None  # of the annotations, if they are kept

    def __len__(self) -> int:
        return len(self.image_ids)

    def path(self, i: int) -> Path:
        """Path of image i."""
        begin, end = self.path_offsets[i], self.path_offsets[i + 1]
        return Path(os.fsdecode(self.path_bytes[begin:end]))

    def paths(self) -> list[str]:
        """Paths of all images."""
        return [os.fsdecode(self.path_bytes[a:b]) for a, b in pairwise(self.path_offsets.tolist())]

    @property
    def image_of_row(self) -> IntArray:
        """Position of the image of each annotation, int64 (T,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def rows(self, i: int) -> slice:
        """Rows of image i in ``classes``, ``boxes``, ``areas``, ``crowd`` and ``trainable``."""
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    @property
    def class_counts(self) -> IntArray:
        """Labels of each class to train on, int64 (C,)."""
        return np.bincount(self.classes[self.trainable], minlength=len(self.class_names))

    @property
    def labels_per_image(self) -> float:
        """Mean number of labels to train on."""
        return float(self.trainable.sum()) / len(self)

    def labels(self, i: int) -> FloatArray:
        """Labels of image i to train on, float32 (n, 5): class, xyxy in original px, clipped to the image."""
        rows = self.rows(i)
        keep = self.trainable[rows]
        height, width = self.sizes[i]
        boxes = self.boxes[rows][keep].clip(0, np.array([width, height, width, height], np.float32))
        return np.concatenate((self.classes[rows][keep, None].astype(np.float32), boxes), axis=1)

    def outlines_of(self, i: int) -> list[FloatArray]:
        """The outline of each label of :meth:`labels`, see ``Outlines``; not clipped to the image."""
        assert self.outlines is not None
        rows = np.flatnonzero(self.trainable[self.rows(i)]) + self.offsets[i]
        return [self.outlines.points[begin:end] for begin, end in self.outlines.spans[rows].tolist()]

    @property
    def has_outlines(self) -> bool:
        """True if a label to train on has an outline."""
        return self.outlines is not None and bool(np.diff(self.outlines.spans[self.trainable]).any())

    def truth(self, i: int) -> FloatArray:
        """All annotations of image i for evaluation, float32 (m, 7).

        Columns: class, raw xyxy in px of the original image, area in px^2, 1.0 for a crowd.
        """
        rows = self.rows(i)
        columns = (self.classes[rows, None], self.boxes[rows], self.areas[rows, None], self.crowd[rows, None])
        return np.concatenate([column.astype(np.float32) for column in columns], axis=1)

    def with_classes(self, class_names: tuple[str, ...], category_ids: IntArray) -> DatasetIndex:
        """This index with the numbers and ids that its classes have elsewhere, matched by their names.

        Unchanged if a name is not there, or is not unique.
        """
        places = {name: n for n, name in enumerate(class_names)}
        own = set(self.class_names)
        if not own <= places.keys() or len(own) < len(self.class_names) or len(places) < len(class_names):
            return self
        table = np.array([places[name] for name in self.class_names], np.int64)
        return replace(self, classes=table[self.classes], class_names=class_names, category_ids=category_ids)

    def without(self, errors: Sequence[Finding]) -> DatasetIndex:
        """This index with more findings, and without the images of those that are errors."""
        wrong = {finding.image for finding in errors if finding.is_error}
        is_good = (path not in wrong and EVERY_IMAGE not in wrong for path in self.paths())
        kept = np.flatnonzero(np.fromiter(is_good, np.bool_, len(self)))
        return replace(self.subset(kept), findings=(*self.findings, *errors))

    def subset(self, images: IntArray) -> DatasetIndex:
        """The index of some images, by their positions and in their order, without the findings."""
        begin, counts = self.offsets[:-1][images], np.diff(self.offsets)[images]
        offsets = np.cumsum([0, *counts], dtype=np.int64)
        rows = np.repeat(begin - offsets[:-1], counts) + np.arange(offsets[-1])
        places = self.path_offsets
        spans = zip(places[:-1][images].tolist(), places[1:][images].tolist(), strict=True)
        return replace(
            self,
            path_bytes=b"".join(self.path_bytes[begin:end] for begin, end in spans),
            path_offsets=np.cumsum([0, *np.diff(places)[images]], dtype=np.int64),
            image_ids=self.image_ids[images],
            sizes=self.sizes[images],
            offsets=offsets,
            findings=(),
            **self._columns(rows),
        )

    def with_labels(self, keep: BoolArray) -> DatasetIndex:
        """This index with the annotations of a mask (T,) alone, and all images."""
        kept = np.concatenate(([0], np.cumsum(keep)))
        return replace(self, offsets=kept[self.offsets].astype(np.int64), **self._columns(keep))

    def _columns(self, rows: IntArray | BoolArray) -> dict[str, Any]:
        """Some rows of all fields that have a row for each annotation."""
        columns = {name: getattr(self, name)[rows] for name in _COLUMNS}
        return columns | {"outlines": self.outlines and self.outlines.take(rows)}

    @property
    def most_labels(self) -> int:
        """Annotations of the image with the most."""
        return int(np.diff(self.offsets).max(initial=0))


def join(first: DatasetIndex, second: DatasetIndex) -> DatasetIndex:
    """The index of all images of two splits with the same classes: new ids, no image twice, no findings."""
    known = set(first.paths())
    second = second.subset(np.flatnonzero([path not in known for path in second.paths()]))
    columns: dict[str, Any] = {
        name: np.concatenate((getattr(first, name), getattr(second, name))) for name in ("sizes", *_COLUMNS)
    }
    if first.outlines is not None and second.outlines is not None:
        columns["outlines"] = first.outlines.followed_by(second.outlines)
    return replace(
        first,
        path_bytes=first.path_bytes + second.path_bytes,
        path_offsets=np.append(first.path_offsets, second.path_offsets[1:] + first.path_offsets[-1]),
        image_ids=np.arange(len(first) + len(second)),
        offsets=np.append(first.offsets, second.offsets[1:] + first.offsets[-1]),
        findings=(),
        **columns,
    )


def refuse_other_classes(train: DatasetIndex, val: DatasetIndex) -> None:
    """Refuse two splits with different classes.

    Raises:
        InputError: Their names or ids differ.
    """
    same_ids = np.array_equal(train.category_ids, val.category_ids)
    if train.class_names != val.class_names or not same_ids:
        raise InputError(
            f"{val.source}: its classes are not those of {train.source}; "
            f"make the categories of the two files equal"
        )


@dataclass(frozen=True, eq=False)
class Annotations:
    """The T annotations of a split as a reader found them, in file order."""

    image: IntArray  # int64 (T,), position of the image in the reader's list of paths
    row_id: IntArray  # int64 (T,), the COCO annotation id or the line number
    classes: IntArray  # int64 (T,), 0 .. C-1
    boxes: npt.NDArray[np.float64]  # float64 (T, 4), xyxy in px
    areas: npt.NDArray[np.float64]  # float64 (T,), px^2
    crowd: BoolArray  # bool (T,)
    outlines: Outlines | None = None  # if they are kept

    def take(self, rows: IntArray | BoolArray) -> Annotations:
        """Some of the annotations."""
        columns = {name: values[rows] for name, values in vars(self).items() if name != "outlines"}
        return Annotations(**columns, outlines=self.outlines and self.outlines.take(rows))


def build_index(
    *,
    root: Path,
    split: str,
    source: Path,
    class_names: tuple[str, ...],
    category_ids: IntArray,
    paths: Sequence[str],
    image_ids: IntArray,
    sizes: npt.NDArray[np.int32],
    annotations: Annotations,
    describe: Callable[[str, int], str],
    findings: Iterable[Finding] = (),
) -> DatasetIndex:
    """Order and validate what a reader has read; for arrays see ``DatasetIndex``.

    Images that have errors are left out with all their annotations.

    Args:
        paths: I absolute paths, in any order; ``image_ids`` and ``sizes`` are in the same order.
        describe: Turns an image path and a ``row_id`` into the row's place in its file.
        findings: Those of the reader.
    """
    findings = tuple(findings)
    wrong = {finding.image for finding in findings if finding.is_error}
    kept = (i for i, path in enumerate(paths) if path not in wrong and EVERY_IMAGE not in wrong)
    order = np.array(sorted(kept, key=paths.__getitem__), np.int64)
    names, sizes = [paths[i] for i in order], sizes[order]
    encoded = [os.fsencode(name) for name in names]
    places = np.full(len(paths), -1)
    places[order] = np.arange(len(order))
    image = places[annotations.image]
    rows = np.argsort(image, kind="stable")[(image < 0).sum() :]
    image, annotations = image[rows], annotations.take(rows)
    classes, crowd, boxes = annotations.classes, annotations.crowd, annotations.boxes.astype(np.float32)
    no_area, clipped = find_cut_boxes(boxes, sizes[image], crowd)
    duplicate = _repeats(image, classes, boxes, candidates=~crowd & ~no_area)
    own = _unused_classes(class_names, classes, source)
    for (kind, what, remedy), flawed in zip(_BOX_FINDINGS, (no_area, duplicate, clipped), strict=True):
        found = zip(image[flawed].tolist(), annotations.row_id[flawed].tolist(), strict=True)
        own += [Finding(kind, describe(names[i], row_id), what, remedy, names[i]) for i, row_id in found]
    return DatasetIndex(
        root=root,
        split=split,
        source=source,
        class_names=class_names,
        category_ids=category_ids,
        path_bytes=b"".join(encoded),
        path_offsets=np.cumsum([0, *map(len, encoded)], dtype=np.int64),
        image_ids=image_ids[order],
        sizes=sizes,
        offsets=np.searchsorted(image, np.arange(len(names) + 1)).astype(np.int64),
        classes=classes,
        boxes=boxes,
        areas=annotations.areas.astype(np.float32),
        crowd=crowd,
        trainable=~(crowd | no_area | duplicate),
        outlines=annotations.outlines,
        findings=(*findings, *own),
    )


def find_cut_boxes(
    boxes: FloatArray, sizes: npt.NDArray[np.int32], crowd: BoolArray
) -> tuple[BoolArray, BoolArray]:
    """Boxes xyxy (T, 4) without area in their images, and others that reach out of them, bool (T,) each.

    ``sizes`` (T, 2) are height and width of the images; all in px. A crowd is neither.
    """
    inside = np.clip(boxes, 0, sizes[:, [1, 0, 1, 0]].astype(np.float32))
    no_area = ~crowd & ((inside[:, 2:] - inside[:, :2]).min(axis=1, initial=np.inf) <= _TOLERANCE_PX)
    clipped = ~crowd & ~no_area & (np.abs(boxes - inside).max(axis=1, initial=0) > _TOLERANCE_PX)
    return no_area, clipped


def _unused_classes(class_names: tuple[str, ...], classes: IntArray, source: Path) -> list[Finding]:
    """One finding about the classes without annotations, if there are any."""
    used = set(classes.tolist())
    unused = [repr(name) for number, name in enumerate(class_names) if number not in used]
    if not unused:
        return []
    noun = "category" if len(unused) == 1 else "categories"
    more = f" and {len(unused) - SHOWN} more" if len(unused) > SHOWN else ""
    shown = f"{', '.join(unused[:SHOWN])}{more}"
    what, remedy = f"no label has the {noun} {shown}", "remove unused categories, or add labels"
    return [Finding("unused class", str(source), what, remedy, is_note=True)]


def _repeats(image: IntArray, classes: IntArray, boxes: FloatArray, candidates: BoolArray) -> BoolArray:
    """The candidates that equal an earlier candidate in image, class and box, bool (T,)."""
    rows = np.flatnonzero(candidates)
    # lexsort is stable, so the first of equal rows stays the first of the file.
    order = rows[np.lexsort((*boxes[rows].T, classes[rows], image[rows]))]
    a, b = order[:-1], order[1:]
    same = (image[a] == image[b]) & (classes[a] == classes[b]) & (boxes[a] == boxes[b]).all(axis=1)
    repeat = np.zeros(len(image), np.bool_)
    repeat[b[same]] = True
    return repeat


def ids_from_paths(paths: Sequence[str]) -> IntArray:
    """Image ids int64 (I,) for files without ids.

    If all file names are different numbers, those (``000000000139.jpg`` is 139); otherwise 1 .. I.
    """
    stems = [Path(path).stem for path in paths]
    if all(stem.isascii() and stem.isdigit() and len(stem) <= 18 for stem in stems):
        numbers = np.array([int(stem) for stem in stems], np.int64)
        if len(np.unique(numbers)) == len(numbers):
            return numbers
    return np.arange(1, len(paths) + 1, dtype=np.int64)


def missing_files(paths: Sequence[str]) -> list[str]:
    """The paths that do not exist; lists each folder once instead of looking at each file."""
    listings: dict[str, frozenset[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listings:
            listings[folder] = frozenset(os.listdir(folder)) if os.path.isdir(folder) else frozenset()
        if name not in listings[folder]:
            missing.append(path)
    return missing
