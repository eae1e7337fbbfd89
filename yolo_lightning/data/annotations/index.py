"""The annotations of one split as flat arrays: no Python object per box, cheap to share with workers.

Both readers (``coco`` and ``yolo``) end in ``build_index``, so that one data set read either way
gives the same index:

* images are ordered by path, labels in the order of their file;
* classes are 0 .. C-1; ``category_ids`` holds what COCO calls them (the sorted ids of the JSON; for
  YOLO, which has none, 1 .. C);
* image ids are those of the JSON; for YOLO the number that each file name spells when all do (as in
  COCO's own files), otherwise 1 .. I in the order of the paths.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .summary import IndexReport, measure

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"})

TOLERANCE_PX = 0.05
"""Labels are text: six decimals of a 10,000 px side are 0.01 px. Less than this is rounding."""


@dataclass(frozen=True, eq=False)
class DatasetIndex:
    """One split of a data set: I images, C classes, T annotations.

    Attributes:
        root: Folder of the data set.
        split: ``train``, ``val`` or ``test``.
        source: The file that was read: the COCO JSON or the YOLO data.yaml.
        class_names: Names of the classes 0 .. C-1.
        category_ids: int64 (C,), the COCO id of each class, to write results back.
        path_bytes: The paths of all images, one after the other.
        path_offsets: int64 (I+1,), where each path begins in ``path_bytes``.
        image_ids: int64 (I,), unique.
        sizes: int32 (I, 2), height and width in px, as the image is displayed (EXIF applied).
        offsets: int64 (I+1,), the rows of image i are ``offsets[i]:offsets[i + 1]``.
        classes: int64 (T,), 0 .. C-1.
        boxes: float32 (T, 4), xyxy in px of the original image, exactly as annotated.
        areas: float32 (T,), px^2: ``area`` of the COCO JSON, otherwise that of the box.
        crowd: bool (T,), ``iscrowd`` of COCO.
        trainable: bool (T,), False for crowds, for exact duplicates of an earlier row of the same
            image, and for boxes that have no area inside the image.
        report: What was counted and found wrong.
    """

    root: Path
    split: str
    source: Path
    class_names: tuple[str, ...]
    category_ids: IntArray
    path_bytes: bytes
    path_offsets: IntArray
    image_ids: IntArray
    sizes: npt.NDArray[np.int32]
    offsets: IntArray
    classes: IntArray
    boxes: FloatArray
    areas: FloatArray
    crowd: BoolArray
    trainable: BoolArray
    report: IndexReport

    def __len__(self) -> int:
        return len(self.image_ids)

    def path(self, i: int) -> Path:
        """Path of image i."""
        begin, end = self.path_offsets[i], self.path_offsets[i + 1]
        return Path(os.fsdecode(self.path_bytes[begin:end]))

    def rows(self, i: int) -> slice:
        """Which rows of ``classes``, ``boxes``, ``areas``, ``crowd`` and ``trainable`` are image i's."""
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def labels(self, i: int) -> FloatArray:
        """The labels of image i to train on, float32 (n, 5).

        Class and xyxy in px of the original image, clipped to the image.
        """
        rows = self.rows(i)
        keep = self.trainable[rows]
        height, width = self.sizes[i]
        boxes = self.boxes[rows][keep].clip(0, np.array([width, height, width, height], np.float32))
        return np.concatenate((self.classes[rows][keep, None].astype(np.float32), boxes), axis=1)

    def truth(self, i: int) -> FloatArray:
        """All annotations of image i for evaluation, float32 (m, 7).

        Class, raw xyxy in px of the original image, area in px^2, 1.0 for a crowd.
        """
        rows = self.rows(i)
        columns = (self.classes[rows, None], self.boxes[rows], self.areas[rows, None], self.crowd[rows, None])
        return np.concatenate([column.astype(np.float32) for column in columns], axis=1)

    @property
    def most_labels(self) -> int:
        """Annotations of the image that has most."""
        return int(np.diff(self.offsets).max(initial=0))

    @property
    def class_counts(self) -> IntArray:
        """int64 (C,), annotations of each class, crowds included."""
        return np.bincount(self.classes, minlength=len(self.class_names)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Annotations:
    """The T annotations of a split as a reader found them, in file order."""

    image: IntArray
    """int64 (T,), position of the image in the reader's list of paths."""
    row_id: IntArray
    """int64 (T,), what names the row in its file: the COCO annotation id or the line number."""
    classes: IntArray
    """int64 (T,), 0 .. C-1."""
    boxes: npt.NDArray[np.float64]
    """float64 (T, 4), xyxy in px."""
    areas: npt.NDArray[np.float64]
    """float64 (T,), px^2."""
    crowd: BoolArray
    """bool (T,)."""


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
    notes: Iterable[str] = (),
) -> DatasetIndex:
    """Order, validate and count what a reader found.

    Args:
        root: Folder of the data set.
        split: ``train``, ``val`` or ``test``.
        source: The file that was read.
        class_names: C names.
        category_ids: int64 (C,).
        paths: I absolute paths, in any order.
        image_ids: int64 (I,), unique.
        sizes: int32 (I, 2), height and width in px.
        annotations: The T annotations.
        describe: Path of an image and ``row_id`` of a row to words that find the row in its file.
        notes: Problems that the reader has found already, one sentence each.
    """
    order = np.array(sorted(range(len(paths)), key=paths.__getitem__), np.int64)
    names, sizes = [paths[i] for i in order], sizes[order]
    encoded = [os.fsencode(name) for name in names]
    rows = _by_image(annotations, order)
    boxes, areas = rows.boxes.astype(np.float32), rows.areas.astype(np.float32)
    odd = _find_odd(rows, boxes, sizes)
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
        offsets=np.searchsorted(rows.image, np.arange(len(names) + 1)).astype(np.int64),
        classes=rows.classes,
        boxes=boxes,
        areas=areas,
        crowd=rows.crowd,
        trainable=~(rows.crowd | odd.no_area | odd.duplicate),
        report=_report(class_names, source, names, rows, areas, odd, describe, notes),
    )


def _by_image(annotations: Annotations, order: IntArray) -> Annotations:
    """The annotations in the order of their images, those of one image as in the file.

    Args:
        annotations: T of them, in file order.
        order: int64 (I,), the reader's position of each image.
    """
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    image = position[annotations.image]
    rows = np.argsort(image, kind="stable")
    columns = {name: values[rows] for name, values in vars(annotations).items()}
    return Annotations(**{**columns, "image": image[rows]})


@dataclass(frozen=True, eq=False)
class _Odd:
    """What is wrong with each of T annotations; nothing is with crowds."""

    no_area: BoolArray
    """bool (T,), no area inside the image."""
    clipped: BoolArray
    """bool (T,), reaches out of the image."""
    duplicate: BoolArray
    """bool (T,), repeats an earlier one."""


def _find_odd(rows: Annotations, boxes: FloatArray, sizes: npt.NDArray[np.int32]) -> _Odd:
    """Look at annotations, their boxes as float32 (T, 4), and the sizes of the images (I, 2)."""
    inside = clip_to_images(boxes, sizes[rows.image])
    no_area = ~rows.crowd & ((inside[:, 2:] - inside[:, :2]).min(axis=1, initial=np.inf) <= TOLERANCE_PX)
    clipped = ~rows.crowd & ~no_area & (np.abs(boxes - inside).max(axis=1, initial=0) > TOLERANCE_PX)
    duplicate = _repeats(rows.image, rows.classes, boxes, candidates=~rows.crowd & ~no_area)
    return _Odd(no_area, clipped, duplicate)


def _report(
    class_names: tuple[str, ...],
    source: Path,
    names: Sequence[str],
    rows: Annotations,
    areas: FloatArray,
    odd: _Odd,
    describe: Callable[[str, int], str],
    notes: Iterable[str],
) -> IndexReport:
    """What there is to say about ``rows``, which are in the order of the images ``names``."""
    return measure(
        class_names=class_names,
        source=source,
        images=len(names),
        labelled_images=len(np.unique(rows.image)),
        classes=rows.classes,
        areas=areas,
        crowd=rows.crowd,
        no_area=odd.no_area,
        clipped=odd.clipped,
        duplicate=odd.duplicate,
        describe=lambda row: describe(names[rows.image[row]], int(rows.row_id[row])),
        notes=notes,
    )


def clip_to_images(boxes: FloatArray, sizes: npt.NDArray[np.int32]) -> FloatArray:
    """Boxes xyxy (T, 4) clipped to the images of ``sizes`` (T, 2) height, width, all in px."""
    limit = sizes[:, [1, 0, 1, 0]].astype(np.float32)  # (T, 4) w, h, w, h
    return np.clip(boxes, 0, limit)


def _repeats(image: IntArray, classes: IntArray, boxes: FloatArray, candidates: BoolArray) -> BoolArray:
    """Bool (T,): the candidates that equal an earlier candidate in image, class and box."""
    rows = np.flatnonzero(candidates)
    # lexsort is stable, so the first of equal rows stays the first of the file.
    order = rows[np.lexsort((*boxes[rows].T, classes[rows], image[rows]))]
    a, b = order[:-1], order[1:]
    same = (image[a] == image[b]) & (classes[a] == classes[b]) & (boxes[a] == boxes[b]).all(axis=1)
    repeat = np.zeros(len(image), np.bool_)
    repeat[b[same]] = True
    return repeat


def ids_from_paths(paths: Sequence[str]) -> IntArray:
    """Image ids int64 (I,) for files that come without any.

    The number that each name spells (``000000000139.jpg`` is 139) when all names spell different
    numbers, otherwise 1 .. I.
    """
    stems = [Path(path).stem for path in paths]
    if all(stem.isascii() and stem.isdigit() and len(stem) <= 18 for stem in stems):
        numbers = np.array([int(stem) for stem in stems], np.int64)
        if len(np.unique(numbers)) == len(numbers):
            return numbers
    return np.arange(1, len(paths) + 1, dtype=np.int64)


def missing_files(paths: Sequence[str]) -> list[str]:
    """The paths that do not exist, by one listing of each folder instead of one look at each file."""
    listings: dict[str, frozenset[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listings:
            listings[folder] = frozenset(os.listdir(folder)) if os.path.isdir(folder) else frozenset()
        if name not in listings[folder]:
            missing.append(path)
    return missing
