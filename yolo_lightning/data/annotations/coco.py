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
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import InputError
from ..images.decode import refuse_other_size
from .findings import Finding
from .index import Annotations, DatasetIndex, IntArray, build_index, ids_from_paths, missing_files
from .outlines import box_around
from .reader import Classes, SplitReader, refuse_outside, stamp
from .spelling import find_respelled

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
        document, columns = _load(path)
        categories = _categories(document, path, columns.categories.__contains__)
        names, category_ids = _numbered(categories)
        file_names, image_keys, sizes = _images(document, path, self.split)
        kept = _annotation_rows(document, path)
        findings = [
            Finding("repeated image", str(path), f"{count} images name the same file {name}", "keep one")
            for name, count in Counter(file_names).items()
            if count > 1
        ]
        del document
        paths = _locate_images(self._image_folders(), file_names, path, self.split, findings)
        refuse_outside(paths, self.roots())
        _check_sizes(paths, sizes)
        rows = columns.finish(kept)
        image = _lookup(rows.image, columns.images, image_keys, rows.row_id, path, "image_id")
        classes = _lookup(rows.classes, columns.categories, categories, rows.row_id, path, "category_id")
        return build_index(
            root=self.folder,
            split=self.split,
            source=path,
            class_names=names,
            category_ids=category_ids,
            paths=paths,
            image_ids=np.array(image_keys) if _are_integers(image_keys) else ids_from_paths(file_names),
            sizes=sizes,
            annotations=replace(rows, image=image, classes=classes),
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
    found = (sorted(root.glob(_pattern(pattern, split))) for _, pattern in _LAYOUTS)
    return next(filter(None, found), [])


def _pattern(pattern: str, split: str) -> str:
    return pattern.format(split=split, Split="".join(f"[{c}{c.upper()}]" for c in split))


def read_categories(*files: Path) -> Classes:
    """The classes of the smallest of some COCO JSONs, sorted by category id, without its annotations."""
    path = min(files, key=lambda file: (file.stat().st_size, file.name))
    document = _categories_only(path) or _load(path)[0]
    return _numbered(_categories(document, path, lambda key: any(_is_used(key, file) for file in files)))


class _Columns:
    """Annotations moved into flat arrays while their JSON is parsed.

    The parser calls ``hook`` with every complete object. An annotation is replaced by its row number, so
    that only one at a time, with its polygons, exists as Python objects.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.row_id, self.image, self.category = array("q"), array("q"), array("q")
        self.images: dict[Any, int] = {}  # a number for each id: it may be a text, and an array has integers
        self.categories: dict[Any, int] = {}
        self.boxes, self.areas, self.crowd = array("d"), array("d"), array("b")

    def hook(self, item: dict[str, Any]) -> Any:
        box, outline = item.get("bbox"), item.get("segmentation")
        if not ("image_id" in item and "category_id" in item and (box or outline)):
            return item
        row = len(self.crowd)
        name = item.get("id", row)
        try:
            if box:
                x, y, width, height = (float(value) for value in box)
                x2, y2 = x + width, y + height
            else:
                x, y, x2, y2 = box_around(outline)
                width, height = x2 - x, y2 - y
            area = item.get("area")
            area = width * height if area is None else float(area)
            if not np.isfinite((x, y, width, height, area)).all():
                raise ValueError
            image, category = _key(item["image_id"]), _key(item["category_id"])
            self.image.append(self.images.setdefault(image, len(self.images)))
            self.category.append(self.categories.setdefault(category, len(self.categories)))
            self.row_id.append(name if isinstance(name, int) and abs(name) < 2**63 else row)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InputError(
                f"{self.path}: annotation {name} needs ids, a number as area, and four numbers as bbox, or "
                f"without it a segmentation of polygons or of a mask; correct or remove it"
            ) from None
        self.boxes.extend((x, y, x2, y2))
        self.areas.append(area)
        self.crowd.append(bool(item.get("iscrowd", 0)))
        return row

    def finish(self, kept: IntArray) -> Annotations:
        """The annotations of the rows ``kept``, with the numbers of their image and category ids."""
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
        raise InputError(f"{path}: not a text in UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if not isinstance(document, dict):
        raise InputError(
            f"{path}: not COCO annotations (an object with images, annotations and categories); "
            f"export it as COCO instances"
        )
    return document, columns


def _key(value: Any) -> Any:
    """Key that compares ids: 7, 7.0 and "7" are one id. Any JSON value but null may be an id."""
    if type(value) is int:
        return value
    if value is None:
        raise TypeError("no id")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return int(text) if re.fullmatch("0|[1-9][0-9]{0,17}", text) else text


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
        key = _key(category["id"])
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


_Images = tuple[list[str], list[Any], npt.NDArray[np.int32]]


def _images(document: dict[str, Any], path: Path, split: str) -> _Images:
    """File names, keys of the ids (I) and sizes int32 (I, 2) height, width in px."""
    images = _section(document, "images", path)
    if not images:
        raise InputError(f"{path}: the {split} split has no images; add some or point to another file")
    names, keys, sizes = [], [], array("i")
    for n, image in enumerate(images):
        try:
            names.append(os.fspath(image["file_name"]))
            keys.append(_key(image["id"]))
            height, width = int(image["height"]), int(image["width"])
            if height < 1 or width < 1:
                raise ValueError
            sizes.extend((height, width))
        except (KeyError, TypeError, ValueError, OverflowError):
            name = image.get("id", n) if isinstance(image, dict) else n
            raise InputError(
                f"{path}: image {name} needs an id, a file_name, and a width and height of at "
                f"least 1 px; correct or remove it"
            ) from None
    key, count = Counter(keys).most_common(1)[0]
    if count > 1:
        raise InputError(f"{path}: {count} images have the id {key}; give each its own")
    return names, keys, np.array(sizes, np.int32).reshape(-1, 2)


def _annotation_rows(document: dict[str, Any], path: Path) -> IntArray:
    """The row numbers that ``_Columns`` has left in place of the annotations, int64 (T,)."""
    rows = _section(document, "annotations", path)
    for n, row in enumerate(rows):
        if type(row) is not int:
            name = row.get("id", n) if isinstance(row, dict) else n
            raise InputError(
                f"{path}: annotation {name} lacks image_id, category_id, or a bbox or segmentation; "
                f"add it or remove the annotation"
            )
    return np.array(rows, np.int64)


def _lookup(
    values: IntArray, numbers: dict[Any, int], keys: Iterable[Any], row_id: IntArray, path: Path, name: str
) -> IntArray:
    """Position in ``keys`` of each of ``values`` (T,), numbers of keys, int64 (T,)."""
    positions = {key: n for n, key in enumerate(keys)}
    found = np.array([positions.get(key, -1) for key in numbers], np.int64)[values]
    wrong = np.flatnonzero(found < 0)
    if len(wrong):
        section = {"image_id": "images", "category_id": "categories"}[name]
        raise InputError(
            f"{path}: annotation {row_id[wrong[0]]} has {name} {list(numbers)[values[wrong[0]]]!r}, which is "
            f"not in '{section}'; add it there or remove the annotation"
        )
    return found


def _check_sizes(paths: Sequence[str], sizes: npt.NDArray[np.int32]) -> None:
    """Compare the sizes (I, 2) with the headers of the images: of all, or of some that are evenly spread."""
    step = -(-len(paths) // _SIZES_CHECKED)
    with ThreadPoolExecutor(16) as pool:  # on a network file system each look is a wait
        list(pool.map(refuse_other_size, paths[::step], map(tuple, sizes[::step].tolist())))


def _locate_images(
    folders: Sequence[Path], names: Sequence[str], annotations: Path, split: str, findings: list[Finding]
) -> list[str]:
    """The absolute paths of all images, from the first folder that has them."""
    tries = []
    for folder in folders:
        paths = [os.path.abspath(folder / name) for name in names]
        missing = missing_files(paths)
        if not missing:
            return paths
        tries.append((missing, folder))
    if respelled := find_respelled(folders, names, annotations, findings):
        return respelled
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
    except (OSError, ValueError):
        return None  # reading the whole file tells what is wrong with it
