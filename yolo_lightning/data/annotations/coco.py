"""Reader of COCO JSON (https://cocodataset.org/#format-data)."""

from __future__ import annotations

import json
import mmap
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import InputError
from .index import Annotations, DatasetIndex, IntArray, build_index, missing_files
from .reader import Classes, SplitReader, refuse_outside, stamp


@dataclass(frozen=True)
class CocoReader(SplitReader):
    """A split of a COCO JSON; ``images`` is the folder that ``file_name`` is relative to."""

    root: Path | None = None  # folder to search for the images; that of the JSON if None

    @staticmethod
    def find(root: Path) -> Path | None:
        return root if any((root / "annotations").glob("instances_*.json")) else None

    @staticmethod
    def classes(place: Path, splits: Sequence[str]) -> Classes:
        files = [file for split in splits if (file := annotation_file(place, split))]
        return read_categories(*(files or (place / "annotations").glob("instances_*.json")))

    @classmethod
    def of_split(cls, place: Path, split: str, images: Path | None) -> CocoReader:
        found = annotation_file(place, split)
        if found is None:
            raise InputError(
                f"{place}: there is no {split} split; add annotations/instances_{split}.json or give "
                f"--data.{split}_annotations and --data.{split}_images"
            )
        return cls(found, split, images, place)

    @property
    def folder(self) -> Path:
        if self.root is not None:
            return self.root
        parent = self.source.parent
        return parent.parent if parent.name == "annotations" else parent

    def facts(self) -> Iterator[object]:
        for path in (self.source, self.folder, *self._image_folders()):
            yield str(path), os.path.abspath(path), path.is_dir()
        yield stamp(os.stat(self.source))

    def read(self) -> DatasetIndex:
        path = self.source
        document, columns = _load(path)
        names, category_ids = _categories(document, path)
        file_names, image_ids, sizes = _images(document, path, self.split)
        kept = _annotation_rows(document, path)
        notes = [
            f"{path}: {count} images name the same file {name}; keep one"
            for name, count in Counter(file_names).items()
            if count > 1
        ]
        del document
        paths = _locate_images(self._image_folders(), file_names, path, self.split)
        refuse_outside(paths, self.roots())
        rows = columns.finish(kept)
        image = _lookup(rows.image, image_ids, rows.row_id, path, "image_id", "images")
        classes = _lookup(rows.classes, category_ids, rows.row_id, path, "category_id", "categories")
        return build_index(
            root=self.folder,
            split=self.split,
            source=path,
            class_names=names,
            category_ids=category_ids,
            paths=paths,
            image_ids=image_ids,
            sizes=sizes,
            annotations=replace(rows, image=image, classes=classes),
            describe=lambda _, row_id: f"{path}: annotation {row_id}",
            notes=notes,
        )

    def _image_folders(self) -> list[Path]:
        """Folders to search for the images of, say, ``instances_train2017.json``, the likeliest first."""
        if self.images:
            return [self.images]
        name = self.source.stem.removeprefix("instances_")
        places = (f"images/{name}", name, f"images/{self.split}", self.split, "images", "")
        return [self.folder / place for place in dict.fromkeys(places)]


def annotation_file(root: Path, split: str) -> Path | None:
    """The one ``annotations/instances_<split>*.json`` under ``root``; None when there is none.

    Raises:
        InputError: There are several.
    """
    found = sorted((root / "annotations").glob(f"instances_{split}*.json"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(
            f"{root / 'annotations'}: {names} are all annotations of the {split} split; "
            f"choose one with --data.{split}_annotations"
        )
    return found[0] if found else None


def read_categories(*files: Path) -> Classes:
    """The classes of the smallest of some COCO JSONs, sorted by category id, without its annotations."""
    path = min(files, key=lambda file: (file.stat().st_size, file.name))
    document = _categories_only(path) or _load(path)[0]
    return _categories(document, path)


class _Columns:
    """Annotations moved into flat arrays while their JSON is parsed.

    The parser calls ``hook`` with every complete object. An annotation is replaced by its row number, so
    that only one at a time, with its polygons, exists as Python objects.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.row_id, self.image, self.category = array("q"), array("q"), array("q")
        self.boxes, self.areas, self.crowd = array("d"), array("d"), array("b")

    def hook(self, item: dict[str, Any]) -> Any:
        if not ("image_id" in item and "category_id" in item and "bbox" in item):
            return item
        row = len(self.crowd)
        name = item.get("id", row)
        try:
            x, y, width, height = (float(value) for value in item["bbox"])
            area = item.get("area")
            area = width * height if area is None else float(area)
            if not np.isfinite((x, y, width, height, area)).all():
                raise ValueError
            self.image.append(item["image_id"])
            self.category.append(item["category_id"])
            self.row_id.append(name if isinstance(name, int) else row)
        except (TypeError, ValueError, OverflowError):
            raise InputError(
                f"{self.path}: annotation {name} needs integers (of 64 bits) as ids, four numbers "
                f"as bbox and a number as area; correct or remove it"
            ) from None
        self.boxes.extend((x, y, x + width, y + height))
        self.areas.append(area)
        self.crowd.append(bool(item.get("iscrowd", 0)))
        return row

    def finish(self, kept: IntArray) -> Annotations:
        """The annotations of the rows ``kept``, with image and category ids as in the file."""
        return Annotations(
            image=np.array(self.image, np.int64)[kept],
            row_id=np.array(self.row_id, np.int64)[kept],
            classes=np.array(self.category, np.int64)[kept],
            boxes=np.array(self.boxes, np.float64).reshape(-1, 4)[kept],
            areas=np.array(self.areas, np.float64)[kept],
            crowd=np.array(self.crowd, np.bool_)[kept],
        )


def _load(path: Path) -> tuple[dict[str, Any], _Columns]:
    columns = _Columns(path)
    try:
        document = json.loads(path.read_bytes(), object_hook=columns.hook)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{error.lineno}: broken JSON at column {error.colno} ({error.msg}); "
            f"repair the line or export the annotations again"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text in UTF-8; export the annotations again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if not isinstance(document, dict):
        raise InputError(
            f"{path}: not COCO annotations (an object with images, annotations and categories); "
            f"export it as COCO instances"
        )
    return document, columns


def _section(document: dict[str, Any], key: str, path: Path) -> list[Any]:
    section = document.get(key)
    if not isinstance(section, list):
        raise InputError(f"{path}: the list '{key}' is missing; export the annotations as COCO instances")
    return section


def _categories(document: dict[str, Any], path: Path) -> Classes:
    found: dict[int, str] = {}
    for n, category in enumerate(_section(document, "categories", path)):
        known = isinstance(category, dict) and isinstance(category.get("id"), int) and "name" in category
        if not known or abs(category["id"]) >= 2**63:
            raise InputError(f"{path}: entry {n} of 'categories' needs an integer id and a name; add them")
        if category["id"] in found:
            raise InputError(f"{path}: two categories have the id {category['id']}; give each its own")
        found[category["id"]] = str(category["name"])
    if not found:
        raise InputError(f"{path}: 'categories' is empty; add the classes to learn")
    ids = sorted(found)
    return tuple(found[i] for i in ids), np.array(ids, np.int64)


_Images = tuple[list[str], IntArray, npt.NDArray[np.int32]]


def _images(document: dict[str, Any], path: Path, split: str) -> _Images:
    """File names, ids int64 (I,) and sizes int32 (I, 2) height, width in px."""
    images = _section(document, "images", path)
    if not images:
        raise InputError(f"{path}: the {split} split has no images; add some or point to another file")
    names, ids, sizes = [], array("q"), array("i")
    for n, image in enumerate(images):
        try:
            names.append(os.fspath(image["file_name"]))
            ids.append(image["id"])
            height, width = int(image["height"]), int(image["width"])
            if height < 1 or width < 1:
                raise ValueError
            sizes.extend((height, width))
        except (KeyError, TypeError, ValueError, OverflowError):
            name = image.get("id", n) if isinstance(image, dict) else n
            raise InputError(
                f"{path}: image {name} needs an integer id, a file_name, and a width and height of at "
                f"least 1 px; correct or remove it"
            ) from None
    image_ids = np.array(ids, np.int64)
    values, counts = np.unique(image_ids, return_counts=True)
    if counts.max() > 1:
        raise InputError(
            f"{path}: {counts.max()} images have the id {values[counts.argmax()]}; give each its own"
        )
    return names, image_ids, np.array(sizes, np.int32).reshape(-1, 2)


def _annotation_rows(document: dict[str, Any], path: Path) -> IntArray:
    """The row numbers that ``_Columns`` has left in place of the annotations, int64 (T,)."""
    rows = _section(document, "annotations", path)
    for n, row in enumerate(rows):
        if type(row) is not int:
            name = row.get("id", n) if isinstance(row, dict) else n
            raise InputError(
                f"{path}: annotation {name} lacks image_id, category_id or bbox; "
                f"add it or remove the annotation"
            )
    return np.array(rows, np.int64)


def _lookup(
    values: IntArray, ids: IntArray, row_id: IntArray, path: Path, key: str, section: str
) -> IntArray:
    """Position of each of ``values`` (T,) in ``ids``, int64 (T,)."""
    order = np.argsort(ids)
    found = order[np.searchsorted(ids, values, sorter=order).clip(max=len(ids) - 1)]
    wrong = np.flatnonzero(ids[found] != values)
    if len(wrong):
        raise InputError(
            f"{path}: annotation {row_id[wrong[0]]} has {key} {values[wrong[0]]}, which is not in "
            f"'{section}'; add it there or remove the annotation"
        )
    return found


def _locate_images(folders: Sequence[Path], names: Sequence[str], annotations: Path, split: str) -> list[str]:
    """The absolute paths of all images, from the first folder that has them."""
    tries = []
    for folder in folders:
        paths = [os.path.abspath(folder / name) for name in names]
        missing = missing_files(paths)
        if not missing:
            return paths
        tries.append((missing, folder))
    missing, folder = min(tries, key=lambda item: len(item[0]))
    if len(missing) == len(names):
        tried = ", ".join(str(folder) for folder in folders)
        raise InputError(
            f"{annotations}: none of its {len(names)} images (such as {names[0]}) is in {tried}; "
            f"say where they are with --data.{split}_images"
        )
    raise InputError(
        f"{annotations}: {len(missing)} of its {len(names)} images are not in {folder} (such as "
        f"{', '.join(os.path.basename(path) for path in missing[:3])}); add them or remove them from 'images'"
    )


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
    except (OSError, ValueError):
        return None  # reading the whole file tells what is wrong with it
