"""Reader of COCO JSON (https://cocodataset.org/#format-data)."""

from __future__ import annotations

import json
import mmap
import os
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...errors import InputError
from ..images.decode import refuse_other_size
from .coco_document import Columns, Row, key_of, load_document
from .findings import Finding
from .index import Annotations, DatasetIndex, IntArray, build_index, ids_from_paths
from .reader import Classes, SplitReader, refuse_outside, stamp
from .spelling import locate_images

_LAYOUTS = (
    ("COCO", "annotations/instances_{split}*.json"),
    ("COCO with CVAT's subsets", "annotations/instances_{Split}*.json"),
    ("COCO in Roboflow's folders", "{Split}*/_annotations.coco.json"),
    ("COCO", "annotations/{Split}*.json"),
)
"""Names and files of layouts; {Split} is in any case, and ``val`` begins Validation and valid, too."""
_SIZES_CHECKED = 5_000  # images whose headers are read; a wrong size beyond them stops the training


@dataclass(frozen=True)
class CocoReader(SplitReader):
    """A split of a COCO JSON; ``images`` is the folder that ``file_name`` is relative to."""

    name = "coco"
    root: Path | None = None  # folder to search for the images; that of the JSON if None

    @classmethod
    def splits(cls, place: Path) -> frozenset[str]:
        return frozenset(split for split in ("train", "val", "test") if _files(place, split))

    @staticmethod
    def find(root: Path) -> Path | None:
        if any((root / "annotations").glob("instances_*.json")):
            return root
        is_yolo = (root / "data.yaml").is_file()
        return (
            root if not is_yolo and any(_files(root, split) for split in ("train", "val", "test")) else None
        )

    @staticmethod
    def classes(place: Path, splits: Sequence[str]) -> Classes:
        files = [file for split in splits if (file := annotation_file(place, split))]
        return read_categories(*(files or _files(place, "")))

    @classmethod
    def of_split(cls, place: Path, split: str, images: Path | None) -> CocoReader:
        found = annotation_file(place, split)
        if found is None:
            names = ", ".join(str(path.relative_to(place)) for path in _files(place, ""))
            raise InputError(
                f"{place}: there is no {split} split; add annotations/instances_{split}.json or give "
                f"--data.{split}_annotations and --data.{split}_images (found: {names})"
            )
        return cls(found, split, images, place)

    @property
    def folder(self) -> Path:
        if self.root is not None:
            return self.root
        parent = self.source.parent
        return parent.parent if parent.name == "annotations" else parent

    @property
    def layout(self) -> str:
        layouts = (name for name, files in _LAYOUTS if self.source.match(_pattern(files, self.split)))
        return next(layouts, "COCO")

    def facts(self) -> Iterator[object]:
        for path in (self.source, self.folder, *self._image_folders()):
            yield str(path), os.path.abspath(path), path.is_dir()
        yield stamp(os.stat(self.source))

    def read(self) -> DatasetIndex:
        path = self.source
        document, columns = load_document(path, self.keep_outlines)
        categories = _categories(document, path, columns.categories.__contains__)
        names, category_ids = _numbered(categories)
        findings: list[Finding] = []
        images = _images(document, path, self.split, findings)
        paths = _locate_images(self._image_folders(), images.names, path, self.split, findings)
        refuse_outside(paths, self.roots())
        findings += [
            Finding("wrong image entry", str(path), what, remedy, paths[n], is_error=True)
            for n, (what, remedy) in images.wrong.items()
        ]
        wrong = {finding.image for finding in findings if finding.is_error}
        findings += _check_sizes([(n, p) for n, p in enumerate(paths) if p not in wrong], images.sizes)
        found = dict(zip(images.keys, paths, strict=True))
        kept = _annotation_rows(document, path, found, findings)
        del document
        return build_index(
            root=self.folder,
            split=self.split,
            source=path,
            class_names=names,
            category_ids=category_ids,
            paths=paths,
            image_ids=np.array(images.keys) if _are_integers(images.keys) else ids_from_paths(images.names),
            sizes=images.sizes,
            annotations=_resolve(columns, kept, images, categories, paths, path, findings),
            describe=lambda _, row_id: f"{path}: annotation {row_id}",
            findings=findings,
        )

    def _image_folders(self) -> list[Path]:
        """Folders to search for the images of, say, ``instances_train2017.json``, the likeliest first."""
        if self.images:
            return [self.images]
        name = self.source.stem.removeprefix("instances_")
        places = (f"images/{name}", name, f"images/{self.split}", self.split, "images", "")
        beside = self.source.parent
        more = (self.folder / "images" / name / "Data", beside, beside / "images")
        return list(dict.fromkeys([*(self.folder / place for place in places), *more]))


def annotation_file(root: Path, split: str) -> Path | None:
    """The one JSON of a split under ``root``, in the first of the layouts that has any; None without one.

    Raises:
        InputError: There are several.
    """
    found = _files(root, split)
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(root)) for path in found)
        raise InputError(
            f"{root}: {names} are all annotations of the {split} split; "
            f"choose one with --data.{split}_annotations"
        )
    return found[0] if found else None


def _files(root: Path, split: str) -> list[Path]:
    """The files of a split in the first of the layouts that has any; those of all splits if it is empty."""
    # Opening a named pipe would wait for ever, and a device has no end.
    found = (sorted(filter(Path.is_file, root.glob(_pattern(pattern, split)))) for _, pattern in _LAYOUTS)
    return next(filter(None, found), [])


def _pattern(pattern: str, split: str) -> str:
    return pattern.format(split=split, Split="".join(f"[{c}{c.upper()}]" for c in split))


def read_categories(*files: Path) -> Classes:
    """The classes of the smallest of some COCO JSONs, sorted by category id, without its annotations."""
    path = min(files, key=lambda file: (file.stat().st_size, file.name))
    document = _categories_only(path) or load_document(path)[0]
    return _numbered(_categories(document, path, lambda key: any(_is_used(key, file) for file in files)))


def _are_integers(keys: Iterable[Any]) -> bool:
    return all(isinstance(key, int) and abs(key) < 2**63 for key in keys)


def _section(document: dict[str, Any], key: str, path: Path) -> list[Any]:
    """A list of the document; some tools write a map, whose keys are the ids."""
    section = document.get(key)
    if isinstance(section, dict):
        return [{"id": n, **item} if isinstance(item, dict) else item for n, item in section.items()]
    if not isinstance(section, list):
        what = "missing" if key not in document else f"no list but {json.dumps(section)[:40]}"
        raise InputError(f"{path}: the list '{key}' is {what}; export the annotations as COCO instances")
    return section


def _categories(document: dict[str, Any], path: Path, is_used: Callable[[Any], bool]) -> dict[Any, str]:
    """The name of each category by the key of its id, sorted if all are integers, otherwise as in the file.

    Roboflow adds a category that groups the others and has no annotations; it is none.
    """
    found: dict[Any, str] = {}
    parents: dict[Any, str] = {}
    for n, category in enumerate(_section(document, "categories", path)):
        if not isinstance(category, dict) or category.get("id") is None or category.get("name") is None:
            raise InputError(f"{path}: entry {n} of 'categories' needs an id and a name; add them")
        key = key_of(category["id"])
        if key in found:
            raise InputError(f"{path}: two categories have the id {key}; give each its own")
        found[key], parents[key] = str(category["name"]), str(category.get("supercategory"))
    if not found:
        raise InputError(f"{path}: 'categories' is empty; add the classes to learn")
    if _are_integers(found):
        found = dict(sorted(found.items()))
    grouped = Counter(parents.values())
    for group, name in found.items():
        if grouped[name] == len(found) - 1 > 0 and parents[group] != name and not is_used(group):
            return {key: name for key, name in found.items() if key != group}
    return found


def _numbered(categories: dict[Any, str]) -> Classes:
    """The classes in their order; their ids are 1 .. C if those of the file are no integers."""
    ids = list(categories) if _are_integers(categories) else range(1, len(categories) + 1)
    return tuple(categories.values()), np.array(ids, np.int64)


class _Images(NamedTuple):
    """The entries of ``images`` that have an id and a file name."""

    names: list[str]
    keys: list[Any]  # of the ids
    sizes: npt.NDArray[np.int32]  # (I, 2), height and width in px
    wrong: dict[int, tuple[str, str]]  # positions of entries that cannot be used: what is wrong, the remedy
    lost: set[Any]  # keys of entries without a file name


def _images(document: dict[str, Any], path: Path, split: str, findings: list[Finding]) -> _Images:
    images = _section(document, "images", path)
    if not images:
        raise InputError(f"{path}: the {split} split has no images; add some or point to another file")
    found = _Images([], [], np.ones((len(images), 2), np.int32), {}, set())
    for n, image in enumerate(images):
        entry = image if isinstance(image, dict) else {}
        name = entry.get("id", n)
        what = f"image {name} needs an id, a file_name, and a width and height of at least 1 px"
        incomplete = what, "correct or remove it"
        try:
            key, file_name = key_of(entry.get("id")), os.fspath(entry["file_name"])
        except (KeyError, TypeError):
            findings.append(Finding("wrong image entry", str(path), *incomplete, is_error=True))
            found.lost.update([] if entry.get("id") is None else [key_of(entry["id"])])
            continue
        try:
            found.sizes[len(found.keys)] = height, width = int(entry["height"]), int(entry["width"])
            is_complete = height > 0 and width > 0
        except (KeyError, TypeError, ValueError, OverflowError):
            is_complete = False
        if not is_complete:
            found.wrong[len(found.keys)] = incomplete
        found.names.append(file_name)
        found.keys.append(key)
    counts = Counter(found.keys)
    if len(counts) < len(found.keys):
        for n, key in enumerate(found.keys):
            if counts[key] > 1:
                found.wrong[n] = f"{counts[key]} images have the id {key}", "give each its own"
    if len(found.wrong) == len(found.keys):
        wrong = (f"{path}: {what}; {remedy}" for what, remedy in found.wrong.values())
        raise InputError(next(chain(map(str, findings), wrong)))
    findings += [
        Finding("repeated image", str(path), f"{count} images name the same file {name}", "keep one")
        for name, count in Counter(found.names).items()
        if count > 1
    ]
    return found._replace(sizes=found.sizes[: len(found.keys)])


def _annotation_rows(
    document: dict[str, Any], path: Path, images: dict[Any, str], findings: list[Finding]
) -> IntArray:
    """The row numbers that ``Columns`` has left in place of the correct annotations, int64 (T,).

    ``images`` has the path of each image by the key of its id.
    """
    kept = array("q")
    for n, row in enumerate(_section(document, "annotations", path)):
        if type(row) is Row:
            kept.append(row)
            continue
        entry = row if isinstance(row, dict) else {}
        what, remedy = (
            "lacks image_id, category_id, or a bbox or segmentation",
            "add it or remove the annotation",
        )
        if {"image_id", "category_id"} <= entry.keys() and (entry.get("bbox") or entry.get("segmentation")):
            what = "needs ids, a number as area, and four numbers as bbox, or without it a segmentation of "
            what, remedy = f"{what}polygons or of a mask", "correct or remove it"
        image = None if entry.get("image_id") is None else key_of(entry["image_id"])
        what = f"annotation {entry.get('id', n)} {what}"
        place = images.get(image, "")
        findings.append(Finding("wrong annotation", str(path), what, remedy, place, is_error=True))
    return np.array(kept, np.int64)


def _resolve(
    columns: Columns,
    kept: IntArray,
    images: _Images,
    categories: Iterable[Any],
    paths: Sequence[str],
    path: Path,
    findings: list[Finding],
) -> Annotations:
    """The annotations of the rows ``kept`` with the positions of their images and categories."""
    rows = columns.finish(kept)
    image = _positions(columns.images, images.keys)[rows.image]
    classes = _positions(columns.categories, categories)[rows.classes]
    for found, keys, numbers, name, section in (
        (image, list(columns.images), rows.image, "image_id", "images"),
        (classes, list(columns.categories), rows.classes, "category_id", "categories"),
    ):
        for n in np.flatnonzero(found < 0).tolist():
            key = keys[numbers[n]]
            if section == "images" and key in images.lost:
                continue
            what = f"annotation {rows.row_id[n]} has {name} {key!r}, which is not in '{section}'"
            place = paths[image[n]] if image[n] >= 0 else ""
            remedy = "add it there or remove the annotation"
            findings.append(Finding(f"unknown {name}", str(path), what, remedy, place, is_error=True))
    ids, counts = np.unique(rows.row_id, return_counts=True)
    if (counts > 1).any():
        what = f"{(counts > 1).sum():,} ids belong to several annotations, such as {ids[counts > 1][0]}"
        findings.append(Finding("repeated annotation id", str(path), what, "give each its own"))
    known = (image >= 0) & (classes >= 0)
    return replace(rows, image=image, classes=classes).take(known)


def _positions(numbers: dict[Any, int], keys: Iterable[Any]) -> IntArray:
    """Position in ``keys`` of each numbered key, -1 if it is not there."""
    positions = {key: n for n, key in enumerate(keys)}
    return np.array([positions.get(key, -1) for key in numbers], np.int64)


def _check_sizes(images: Sequence[tuple[int, str]], sizes: npt.NDArray[np.int32]) -> list[Finding]:
    """Compare the sizes (I, 2) with the headers of the images: of all, or of some that are evenly spread."""

    def look(image: tuple[int, str]) -> list[Finding]:
        n, path = image
        height, width = sizes[n].tolist()
        try:
            refuse_other_size(path, (height, width))
        except InputError as error:
            return [Finding.of_image(path, error)]
        return []

    step = max(1, -(-len(images) // _SIZES_CHECKED))
    with ThreadPoolExecutor(16) as pool:  # on a network file system each look is a wait
        return list(chain.from_iterable(pool.map(look, images[::step])))


def _locate_images(
    folders: Sequence[Path], names: Sequence[str], annotations: Path, split: str, findings: list[Finding]
) -> list[str]:
    """The absolute paths of all images; see :func:`locate_images`."""
    paths, missing = locate_images(folders, names, annotations, findings)
    if len(missing) == len(names):
        tried = ", ".join(str(folder) for folder in folders)
        raise InputError(
            f"{annotations}: none of its {len(names)} images (such as {names[0]}) is in {tried}; "
            f"say where they are with --data.{split}_images"
        )
    remedy = "add it, or remove it from 'images'"
    findings += [
        Finding("missing image", str(annotations), f"{path} does not exist", remedy, path, is_error=True)
        for path in missing
    ]
    return paths


def _is_used(key: Any, path: Path) -> bool:
    """True if an annotation has a category: a search, as reading may take long."""
    name = re.escape(json.dumps(key).strip('"').encode())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return re.search(rb'"category_id"\s*:\s*"?' + name + rb'(\.0)?"?\s*[,}]', text) is not None


def _categories_only(path: Path) -> dict[str, Any] | None:
    """Only ``categories`` of a large JSON; None unless a plain search finds exactly one."""
    key = b'"categories"'
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            position = text.find(key)
            if position < 0 or text.find(key, position + 1) >= 0:
                return None
            begin = text.find(b"[", position)
            part = text[begin : begin + (1 << 24)].decode(errors="ignore")
            return {"categories": json.JSONDecoder().raw_decode(part)[0]}
    except (OSError, ValueError, RecursionError):
        return None  # reading the whole file tells what is wrong with it
