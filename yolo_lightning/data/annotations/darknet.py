"""Readers of YOLO labels without a data.yaml: Darknet's ``obj.data``, and folders with a list of classes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ...errors import InputError
from .documents import files_below
from .image_files import split_in
from .reader import is_inside
from .spelling import path_parts, read_text, with_slashes
from .yolo import DataYaml, YoloReader

_CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
_LOOKED_AT = 50  # text files of a folder that are opened to find out whether there are labels


@dataclass(frozen=True)
class DarknetReader(YoloReader):
    """``obj.data`` with the keys train, valid and names, as Darknet and CVAT write it."""

    name = "darknet"

    @staticmethod
    def find(root: Path) -> Path | None:
        files = [*sorted(root.glob("*.data")), *sorted(root.glob("data/*.data"))]
        return next(filter(_is_settings, [root] if root.suffix.lower() == ".data" else files), None)

    @staticmethod
    def describe(place: Path) -> DataYaml:
        settings, folder = _settings(place), place.parent
        # Paths count from Darknet's folder, in which the data set is the folder 'data'.
        parts = path_parts(settings["names"])
        file = next(filter(Path.is_file, (folder.joinpath(*parts[n:]) for n in range(len(parts)))), None)
        if file is None:
            raise InputError(f"{place}: 'names' is {settings['names']}, which does not exist; correct it")
        splits: dict[str, tuple[str, ...]] = {}
        for key, split in {"train": "train", "valid": "val", "test": "test"}.items():
            if entry := settings.get(key):
                is_there = (folder / with_slashes(entry)).exists()
                splits[split] = (entry if is_there else path_parts(entry)[-1],)
        return _describe(place, folder, splits, file)

    @property
    def layout(self) -> str:
        return "Darknet"


@dataclass(frozen=True)
class PlainYoloReader(YoloReader):
    """YOLO labels and ``classes.txt``, as labelImg, Label Studio and Roboflow's Darknet export write them."""

    @staticmethod
    def find(root: Path) -> Path | None:
        if not root.is_dir():
            return None
        if _class_file(root) is None and any(root.glob("*/data.yaml")):
            return None  # the data set lies deeper
        texts = islice(files_below(root, ".txt"), _LOOKED_AT)
        return root if any(_is_label_file(Path(path)) for path in texts) else None

    @staticmethod
    def describe(place: Path) -> DataYaml:
        file = _class_file(place)
        if file is None:
            raise InputError(
                f"{place}: YOLO label files without the names of the classes; add classes.txt with one name "
                "a line, or a data.yaml"
            )
        splits: dict[str, tuple[str, ...]] = {}
        for parent, folders, _ in os.walk(place):
            for name in sorted(folders):
                if split := split_in([name]):
                    entry = os.path.relpath(os.path.join(parent, name), place)
                    splits[split] = (*splits.get(split, ()), entry)
            folders[:] = [
                name for name in folders if not (split_in([name]) or name == "labels" or name[0] == ".")
            ]
        return _describe(place, place, splits or {"train": (".",)}, file)

    @property
    def folder(self) -> Path:
        return self.source

    @property
    def layout(self) -> str:
        return "YOLO without data.yaml"


def _class_file(place: Path) -> Path | None:
    patterns = [folder + name for folder in ("", "*/", "*/*/") for name in _CLASS_FILES]
    return next(
        (path for pattern in patterns for path in sorted(place.glob(pattern)) if path.is_file()), None
    )


def _describe(place: Path, folder: Path, splits: dict[str, tuple[str, ...]], class_file: Path) -> DataYaml:
    if not is_inside(str(class_file), [os.path.realpath(folder)]):
        raise InputError(f"{class_file}: is a link that leads out of the data set; copy the file there")
    names = [line.strip() for line in read_text(class_file).strip().splitlines()]
    if not (names and all(names)):
        raise InputError(f"{class_file}: is empty or has empty lines; write one name a line")
    return DataYaml(place, (folder,), splits, tuple(names), {n: n for n in range(len(names))})


def _settings(path: Path) -> dict[str, str]:
    """The values of an ``obj.data`` by their keys."""
    lines = (line.split("#")[0].partition("=") for line in read_text(path).splitlines())
    return {key.strip(): value.strip() for key, _, value in lines if value.strip()}


def _is_settings(path: Path) -> bool:
    try:
        return path.is_file() and {"names", "train"} <= _settings(path).keys()
    except (InputError, OSError):  # any file may have this suffix
        return False


def _is_label_file(path: Path) -> bool:
    try:
        fields = read_text(path).strip().split("\n")[0].split()
        return len(fields) >= 5 and all(float(field) >= 0 for field in fields)
    except (InputError, OSError, ValueError):
        return False
