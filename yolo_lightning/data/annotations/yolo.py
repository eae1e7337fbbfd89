"""Reader of YOLO data.yaml and label files, by the conventions of ultralytics/yolov5."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ...errors import InputError
from ...system.text import has_more_values
from ..images.decode import header_size
from .findings import EVERY_IMAGE, Finding
from .index import (
    IMAGE_SUFFIXES,
    Annotations,
    DatasetIndex,
    build_index,
    ids_from_paths,
)
from .outlines import Outlines, Points
from .reader import Classes, SplitReader, is_inside, look_in_threads, refuse_outside, stamp
from .spelling import locate_images, read_text, with_slashes
from .yolo_labels import (
    Rows,
    are_poses,
    count_from_one,
    find_label,
    label_path,
    labels_without_images,
    read_labels,
)

_LOOKED_AT = 100  # label files that tell poses from polygons
_SUFFIXES = {".yaml", ".yml"}
_NULLS = ("", "~", "null", "Null", "NULL", None)
"""What YAML takes for no value; all else in a data.yaml is the text that somebody wrote: 007, no or 12:30."""


@dataclass(frozen=True)
class DataYaml:
    """A checked data.yaml."""

    path: Path  # the file itself
    folders: tuple[Path, ...]  # folders that the entries of the splits are relative to, in search order
    splits: dict[str, tuple[str, ...]]  # entries of train, val and test; without those that have none
    class_names: tuple[str, ...]  # of the classes 0 .. C-1
    numbers: dict[int, int]  # the class of each number in the label files
    pose_numbers: int = 0  # numbers of the points of a pose, which follow the box


def data_yaml(root: Path) -> Path | None:
    """``data.yaml`` in ``root``, or the only YAML there with ``names`` and a split; None if there is none.

    Raises:
        InputError: There are several.
    """
    if (root / "data.yaml").is_file():
        return root / "data.yaml"
    found = []
    for path in sorted(p for p in root.iterdir() if p.suffix.lower() in _SUFFIXES and p.is_file()):
        content = _load(path)
        keys = content.keys() if isinstance(content, dict) else set()
        if "names" in keys and {"train", "val", "valid", "test"} & keys:
            found.append(path)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"{root}: {names} all describe a data set; give one of them as --data.root")
    return found[0] if found else None


def read_data_yaml(path: Path) -> DataYaml:
    """Read and check a data.yaml.

    Raises:
        InputError: It is broken, has no names, or contradicts itself.
    """
    content = _load(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a data.yaml (a map with train, val and names); write it so")
    base = content.get("path")
    folders = [path.parent / ("" if base in _NULLS else with_slashes(str(base))), path.parent]
    splits: dict[str, tuple[str, ...]] = {}
    for split in ("train", "val", "test"):
        value = content.get(split)
        if value in _NULLS and split == "val":
            value = content.get("valid")
        if value and value not in _NULLS:
            splits[split] = tuple(str(v) for v in (value if isinstance(value, list) else [value]))
    names = _names(content, path)
    numbers = {number: label for label, number in enumerate(names)}
    pose_numbers = _pose_numbers(content.get("kpt_shape"), path)
    return DataYaml(path, tuple(dict.fromkeys(folders)), splits, tuple(names.values()), numbers, pose_numbers)


@dataclass(frozen=True)
class YoloReader(SplitReader):
    """A split of a YOLO data.yaml; ``images`` is a folder or .txt list instead of the entry in the YAML."""

    name = "yolo"

    @staticmethod
    def find(root: Path) -> Path | None:
        if root.is_file():
            return root if root.suffix.lower() in _SUFFIXES else None
        return data_yaml(root)

    @staticmethod
    def describe(place: Path) -> DataYaml:
        """The description of the data set, from its data.yaml; a subclass has another source."""
        return read_data_yaml(place)

    @classmethod
    def classes(cls, place: Path, splits: Sequence[str]) -> Classes:
        names = cls.describe(place).class_names
        return names, np.arange(1, len(names) + 1, dtype=np.int64)

    @classmethod
    def splits(cls, place: Path) -> frozenset[str]:
        return frozenset(cls.describe(place).splits)

    def named_folders(self) -> list[Path]:
        # Whoever names a data.yaml has its key 'path' in view; one that is found may be a stranger's.
        folders = [*super().named_folders(), *(self.describe(self.source).folders if self.is_given else ())]
        return list(dict.fromkeys(f for x in folders for f in (x, Path(label_path(str(x / "x"))).parent)))

    def facts(self) -> Iterator[object]:
        description = self.describe(self.source)
        yield str(self.source), description
        findings: list[Finding] = []
        listed = self._listed(description, findings)
        yield findings
        yield from look_in_threads(_image_stamps, listed)

    def read(self) -> DatasetIndex:
        path, split = self.source, self.split
        description = self.describe(path)
        findings: list[Finding] = []
        listed = self._listed(description, findings)
        paths = sorted(set(listed))
        rules = description.numbers, description.pose_numbers

        def read_one(image: str) -> tuple[tuple[int, int], Rows | None, list[Points], list[Finding]]:
            wrong: list[Finding] = []
            outlines: list[Points] = []
            kept = outlines if self.keep_outlines else None
            labels = read_labels(find_label(image), *rules, wrong, kept)
            try:
                size = header_size(image)
            except InputError as error:
                size = 1, 1
                wrong.append(Finding.of_image(image, error))
            findings = [finding._replace(image=image, is_error=True) for finding in wrong]
            return size, labels, [p * np.array(size[::-1], np.float32) for p in outlines], findings

        with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
            sizes, labels, outlines, wrong = zip(*pool.map(read_one, paths), strict=True)
        if repeated := len(listed) - len(paths):
            what = f"the {split} split lists {repeated} images twice"
            findings.append(Finding("repeated image", str(path), what, "keep one each"))
        if not any(label is not None for label in labels):
            what = f"none of the {len(paths)} images of the {split} split has a label file"
            what += f" (looked for {label_path(paths[0])} and others)"
            findings.append(Finding("no labels", str(path), what, "put the labels there"))
        bare = (image for image, label in zip(paths, labels, strict=True) if label is None)
        if beside := [
            p for p in (os.path.splitext(image)[0] + ".txt" for image in bare) if os.path.exists(p)
        ]:
            what = f"{len(beside)} files beside images are not read, such as {beside[0]}"
            what += ", because there is a folder of labels"
            findings.append(Finding("labels not read", str(path), what, "move them there if they are labels"))
        if not description.pose_numbers and are_poses(map(find_label, paths[:_LOOKED_AT])):
            what = "the labels are boxes followed by the points of poses, not polygons"
            remedy = "add 'kpt_shape: [points, 2]' to the data.yaml"
            findings.append(Finding("poses", str(path), what, remedy, EVERY_IMAGE, is_error=True))
        annotations = _join(labels, np.array(sizes, np.int32))
        if self.keep_outlines:
            annotations = replace(annotations, outlines=Outlines.of([*chain.from_iterable(outlines)]))
        findings += count_from_one(
            path, description.numbers, annotations.classes, list(chain.from_iterable(wrong))
        )
        return build_index(
            root=self.folder,
            split=split,
            source=path,
            class_names=description.class_names,
            category_ids=self.classes(path, ())[1],
            paths=paths,
            image_ids=ids_from_paths(paths),
            sizes=np.array(sizes, np.int32),
            annotations=annotations,
            describe=lambda image, line: f"{find_label(image)}:{line}",
            findings=findings,
        )

    def _listed(self, description: DataYaml, findings: list[Finding]) -> list[str]:
        """Absolute paths of the images, in the order of the entries."""
        split, entries = self.split, description.splits.get(self.split, ())
        if not (self.images or entries):
            raise InputError(
                f"{self.source}: there is no {split} split; add the key '{split}' with its images"
            )
        roots = self.roots()
        places = [self.images] if self.images else [_resolve(description, split, e, roots) for e in entries]
        listed = [image for place in places for image in _list_images(place, description, roots, findings)]
        refuse_outside(list(map(find_label, listed)), roots)
        if not listed:
            names = ", ".join(str(place) for place in places)
            raise InputError(
                f"{names}: the {split} split has no images; add some or correct '{split}' in {self.source}"
            )
        findings += labels_without_images(listed, self.source)
        return listed


def _image_stamps(images: Sequence[str]) -> list[tuple[str, object, object]]:
    """Each image with the stamps of its file and of its label file."""

    def look(path: str) -> object:
        try:
            return stamp(os.stat(path))
        except OSError as error:
            return error.errno

    def look_at_label(image: str) -> tuple[str, object]:
        label = label_path(image)
        if isinstance(found := look(label), tuple):  # one look instead of two where the label is as usual
            return label, found
        return (label := find_label(image)), look(label)

    return [(image, look(image), look_at_label(image)) for image in images]


def _join(labels: Sequence[Rows | None], sizes: np.ndarray[Any, np.dtype[np.int32]]) -> Annotations:
    """The rows of all label files, in px."""
    empty = np.zeros((0, 6))
    found = [empty if label is None else label for label in labels]
    image = np.repeat(np.arange(len(found)), [len(label) for label in found])
    rows = np.concatenate([empty, *found])  # (T, 6)
    boxes = rows[:, 2:] * sizes[image][:, [1, 0, 1, 0]].astype(np.float64)
    return Annotations(
        image=image,
        row_id=rows[:, 0].astype(np.int64),
        classes=rows[:, 1].astype(np.int64),
        boxes=boxes,
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        crowd=np.zeros(len(rows), np.bool_),
    )


def _load(path: Path) -> Any:
    """The content of a YAML, in which every number and word is the text that it is written as."""
    try:
        text = read_text(path).expandtabs(2)  # YAML itself forbids most tabs
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); check the path") from None
    try:
        content = yaml.load(text, yaml.BaseLoader)
        if has_more_values(content, len(text) + 1):
            raise yaml.MarkedYAMLError(problem="its aliases stand for more than a memory holds")
        return content
    except RecursionError:
        raise InputError(f"{path}: broken YAML (nested too deeply); correct the file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        remedy = "write / for \\" if "escape" in problem else "correct the line"
        raise InputError(f"{path}{line}: broken YAML ({problem}); {remedy}") from None
    except (ValueError, OverflowError) as error:  # "\\UFFFFFFFF" is no character
        raise InputError(f"{path}: broken YAML ({error}); write / for \\, or correct it") from None


def _names(content: dict[str, Any], path: Path) -> dict[int, str]:
    """The name of each class by its number, sorted."""
    names = content.get("names")
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or not names:
        raise InputError(f"{path}: 'names' must list the classes; add it")
    for key, name in names.items():
        if not (isinstance(name, str) and name):
            raise InputError(
                f"{path}: the name of class {key} in 'names' is not a text; write the name alone"
            )
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise InputError(f"{path}: the key '{key}' of 'names' must be the number of a class; correct it")
    count = content.get("nc")
    if count not in _NULLS and count not in (str(len(names)), f"{len(names)}.0"):
        raise InputError(f"{path}: 'nc' is {count} but 'names' has {len(names)} classes; make them agree")
    return {number: name for number, name in sorted((int(key), name) for key, name in names.items())}


def _pose_numbers(shape: Any, path: Path) -> int:
    """Numbers that follow a box if ``kpt_shape`` is [points, 2 or 3]; 0 without it."""
    if shape in _NULLS:
        return 0
    if isinstance(shape, list) and len(shape) == 2 and str(shape[0]).isdigit() and shape[1] in ("2", "3"):
        return int(shape[0]) * int(shape[1])
    raise InputError(
        f"{path}: 'kpt_shape' must be the number of points, and 2 or 3, such as [17, 3]; correct it"
    )


def _resolve(description: DataYaml, split: str, entry: str, roots: Sequence[str] | None) -> Path:
    """The folder, list or image that an entry of the YAML names, below ``roots`` if there are any."""
    entries = [entry]
    if entry.startswith("../"):  # some exporters write ../train/images for train/images
        entries.append(entry[3:])
    parts = Path(with_slashes(entry)).parts
    entries += [str(Path(*parts)), str(Path(*parts[1:] if parts[:1] == ("..",) else parts))]
    if split == "val":
        entries.append(str(Path(*("valid" if part == "val" else part for part in parts))))
    own = description.path.absolute().parent
    if own.name in parts:  # Roboflow begins with the folder of the YAML, or with folders of another machine
        entries.append(str(Path(*parts[len(parts) - parts[::-1].index(own.name) :])))
    searched = (description.folders, (own.parent, Path.cwd()))  # the second only if the first has none
    candidates = [Path(os.path.abspath(f / e)) for folders in searched for e in entries for f in folders]
    if found := [candidate for candidate in candidates if os.path.exists(candidate)]:
        within = [candidate for candidate in found if is_inside(str(candidate), roots)]
        refuse_outside([] if within else [str(found[0])], roots)
        return (within or found)[0]
    raise InputError(f"{description.path}: '{split}' names {candidates[0]}, which does not exist; correct it")


def _list_images(
    source: Path, description: DataYaml, roots: Sequence[str] | None, findings: list[Finding]
) -> list[str]:
    """Absolute paths of the images in and below a folder, or in a .txt list."""
    if source.is_dir():
        return images_below(source, roots)
    if source.suffix.lower() != ".txt":
        raise InputError(f"{source}: neither a folder nor a .txt list of images; correct the path")
    try:
        lines = read_text(source).splitlines()
    except OSError as error:
        raise InputError(f"{source}: the list cannot be read ({error}); check the path") from None
    entries = [(n, line.strip()) for n, line in enumerate(lines, start=1) if line.strip()]
    folders = list(dict.fromkeys((source.parent, *description.folders)))
    names = [entry for _, entry in entries]
    paths, lost = locate_images(folders, names, source, findings)
    missing = set(lost)
    remedy = "correct or remove the line"
    findings += (
        wrong := [
            Finding("missing image", f"{source}:{n}", f"{entry} does not exist", remedy, path, is_error=True)
            for (n, entry), path in zip(entries, paths, strict=True)
            if path in missing
        ]
    )
    if len(wrong) == len(paths) > 0:
        raise InputError(str(wrong[0]))
    found = [path for path in paths if path not in missing]
    refuse_outside(found, roots)
    return found


def images_below(folder: Path, roots: Sequence[str] | None, suffixes: Set[str] = IMAGE_SUFFIXES) -> list[str]:
    """Absolute paths of all image files, or files of other suffixes, in and below a folder, sorted.

    Links back into it are not followed. Leftovers of systems and editors are passed over.

    Raises:
        InputError: A link leads out of ``roots``, see :func:`refuse_outside`.
    """
    found: list[str] = []
    seen: set[str] = set()
    start = os.path.realpath(folder)
    for parent, folders, names in os.walk(os.path.abspath(folder), followlinks=True):
        real = os.path.realpath(parent)
        leads_back = is_inside(real, [start]) or is_inside(start, [real])
        if real in seen or (seen and leads_back and os.path.islink(parent)):
            folders.clear()
            continue
        seen.add(real)
        refuse_outside([os.path.join(parent, "")], roots)  # before it is followed through a whole disk
        folders[:] = [name for name in folders if not name.startswith(".") and name != "@eaDir"]
        images = [name for name in names if os.path.splitext(name)[1].lower() in suffixes]
        found += [os.path.join(parent, name) for name in images if not name.startswith("._")]
    refuse_outside(found, roots)
    return sorted(found)
