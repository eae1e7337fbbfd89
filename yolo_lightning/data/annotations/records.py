"""Base class of formats whose files list the objects of each image, as most labelling tools write them."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ...errors import InputError
from ..images.decode import header_size, refuse_other_size
from .documents import LOOKED_AT, files_below, load, load_again
from .findings import Finding
from .image_files import ImageFiles, split_in
from .index import Annotations, DatasetIndex, build_index, ids_from_paths
from .outlines import Box
from .reader import Classes, SplitReader, refuse_outside, stamp
from .spelling import path_parts
from .yolo import images_below

_MALFORMED = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)


class Label(NamedTuple):
    """One object of an image."""

    name: str  # of the class
    box: Box  # xyxy in px
    crowd: bool = False


class Record(NamedTuple):
    """What a file says about one image."""

    names: Sequence[str]  # of its file, as annotated; the first that is found counts
    objects: Sequence[Any]
    size: tuple[int, int] | None = None  # height and width in px; that of the image's header if None
    split: str = ""  # train, val or test, if the file says so
    remedy: str = "add it"  # if there is no such image


class NotLabelledError(Exception):
    """An object without a box, or an image that nobody has looked at; the argument says why."""


@dataclass
class _Parsed:
    """All files of a data set, read."""

    names: tuple[str, ...] = ()
    ordered: dict[str, None] = field(
        default_factory=dict
    )  # names in the order of the files, if they have one
    images: list[tuple[Record, Path, str]] = field(default_factory=list)  # without objects; file; split
    findings: list[tuple[int, Finding]] = field(default_factory=list)  # position in ``images``, or -1
    passed_over: dict[tuple[str, str], list[Path]] = field(
        default_factory=dict
    )  # by split ("": all), and reason
    image: array[int] = field(default_factory=lambda: array("q"))  # (T,) of each label
    row: array[int] = field(default_factory=lambda: array("q"))  # (T,) number of the object, from 1
    classes: array[int] = field(default_factory=lambda: array("q"))  # (T,)
    boxes: array[float] = field(default_factory=lambda: array("d"))  # (T * 4)
    crowd: array[int] = field(default_factory=lambda: array("b"))  # (T,)


@dataclass(frozen=True)
class RecordReader(SplitReader):
    """A split of a data set in files that list objects; ``images`` is a folder instead of the data set's.

    Images are looked up by the longest end of their names among the files below the folder, so that no name
    leads out of it. Classes are those of all splits, sorted by name unless the files have an order.
    """

    suffix: ClassVar[str] = ".json"
    title: ClassVar[str]

    @staticmethod
    @abstractmethod
    def recognises(document: Any) -> bool:
        """True if the content of a file is of this format; it may be anything."""

    @staticmethod
    def entries(document: Any, path: Path) -> Iterable[Any]:
        """What the content has about each image."""
        return [document]

    @staticmethod
    @abstractmethod
    def record(entry: Any, path: Path) -> Record:
        """One entry, read. It may raise NotLabelledError, or what malformed content raises."""

    @staticmethod
    @abstractmethod
    def label(item: Any, record: Record) -> Label:
        """One of the objects of a record, read. It may raise as :meth:`record` does."""

    @staticmethod
    def class_list(document: Any) -> list[str]:
        """The classes in their order, if the content has them."""
        return []

    @staticmethod
    def split_rule(place: Path) -> Callable[[Path, Record], str]:
        """A function of file and record to the split; "" if nothing tells it."""
        folder = place if place.is_dir() else place.parent
        images: list[ImageFiles] = []  # listed only if folders of annotations tell nothing

        def rule(path: Path, record: Record) -> str:
            if own := split_in(path.relative_to(folder).parts[:-1]):
                return own
            if not images:
                images.append(ImageFiles(images_below(folder, None), str(folder)))
            found = images[0].find(record.names, path.parent)
            return images[0].split(found) if found else ""

        return rule

    @classmethod
    def annotation_files(cls, place: Path) -> list[Path]:
        """The files of the data set."""
        return list(files_below(place, cls.suffix))

    @classmethod
    def find(cls, root: Path) -> Path | None:
        """``root`` if one of its first files, or itself, is of this format."""
        for path in islice(files_below(root, cls.suffix), LOOKED_AT):
            try:
                if cls.recognises(load_again(path, stamp(os.stat(path)))):
                    return root
            except (InputError, OSError):
                continue
        return None

    @classmethod
    def classes(cls, place: Path, splits: Sequence[str]) -> Classes:
        names = cls._parsed(place).names
        return names, np.arange(1, len(names) + 1, dtype=np.int64)

    @classmethod
    def splits(cls, place: Path) -> frozenset[str]:
        return frozenset(split for _, _, split in cls._parsed(place).images) - {"none"}

    @property
    def layout(self) -> str:
        return self.title

    @property
    def folder(self) -> Path:
        return self.source if self.source.is_dir() else self.source.parent

    def facts(self) -> Iterator[object]:
        yield str(self.source)
        files = self.annotation_files(self.source)
        images = images_below(self.images or self.folder, self.roots())
        with ThreadPoolExecutor(16) as pool:  # on a network file system each look is a wait
            for path, status in zip([*files, *images], pool.map(os.stat, [*files, *images]), strict=True):
                yield str(path), stamp(status)

    @classmethod
    def _parsed(cls, place: Path) -> _Parsed:
        files = cls.annotation_files(place)
        return _parse(cls, place, tuple((path, stamp(os.stat(path))) for path in files))

    def read(self) -> DatasetIndex:
        parsed, roots = self._parsed(self.source), self.roots()
        refuse_outside(list(map(str, self.annotation_files(self.source))), roots)
        files = ImageFiles(
            images_below(self.images or self.folder, roots), str(self.folder), self.allow_outside
        )
        found: dict[str, int] = {}  # number of the image by its path
        findings = self._passed_over(parsed)
        wrong = {n for n, _ in parsed.findings}
        own = [n for n, (_, _, split) in enumerate(parsed.images) if split == self.split]
        located = {}
        for n in own:
            record, file, _ = parsed.images[n]
            path = files.find(record.names, file.parent, self.split)
            located[n] = path or ""
            if path is None and n not in wrong:
                name, what = record.names[0], "is not below the folder, or is there several times"
                would_be = os.path.join(file.parent, *path_parts(name))
                finding = Finding(
                    "missing image",
                    str(file),
                    f"its image {name[:200]} {what}",
                    record.remedy,
                    would_be,
                    True,
                )
                findings.append(finding)
            elif path in found:
                what = f"{path} is annotated by {parsed.images[found[path]][1]}, too, which is used"
                findings.append(Finding("repeated image", str(file), what, "keep one"))
            elif path:
                found[path] = n
        findings += [f._replace(image=located[n]) for n, f in parsed.findings if n in located]
        findings += [f for n, f in parsed.findings if n < 0]
        if not found:
            raise InputError(self._no_images(own, findings))
        is_all = self.splits(self.source) == {self.split}
        if bare := {path for path in files.paths if is_all or files.split(path) == self.split} - found.keys():
            what = f"{len(bare)} images have no annotations and are left out, such as {min(bare)}"
            findings.append(
                Finding("not annotated", str(self.source), what, "annotate them, as empty if they are")
            )
        return self._index(parsed, dict(sorted(found.items())), findings)

    def _index(self, parsed: _Parsed, found: dict[str, int], findings: list[Finding]) -> DatasetIndex:
        paths = list(found)
        with ThreadPoolExecutor(16) as pool:
            looks = list(pool.map(_look, paths, (parsed.images[n][0].size for n in found.values())))
        places = np.full(len(parsed.images), -1)
        places[list(found.values())] = np.arange(len(paths))
        image = places[np.array(parsed.image, np.int64)]
        kept = image >= 0
        boxes = np.array(parsed.boxes, np.float64).reshape(-1, 4)[kept]

        def describe(path: str, row: int) -> str:
            file = parsed.images[found[path]][1]
            return f"{file}: object {row} of {os.path.basename(path)}"

        return build_index(
            root=self.folder,
            split=self.split,
            source=self.source,
            class_names=parsed.names,
            category_ids=np.arange(1, len(parsed.names) + 1, dtype=np.int64),
            paths=paths,
            image_ids=ids_from_paths(paths),
            sizes=np.array([size for size, _ in looks], np.int32),
            annotations=Annotations(
                image=image[kept],
                row_id=np.array(parsed.row, np.int64)[kept],
                classes=np.array(parsed.classes, np.int64)[kept],
                boxes=boxes,
                areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
                crowd=np.array(parsed.crowd, np.bool_)[kept],
            ),
            describe=describe,
            findings=[*findings, *(finding for _, finding in looks if finding)],
        )

    def _passed_over(self, parsed: _Parsed) -> list[Finding]:
        """A finding for each reason why something of this split is no label."""
        return [
            Finding(
                "passed over",
                str(files[0]),
                f"{why} ({len(files):,} such are passed over)",
                "label it otherwise",
            )
            for (split, why), files in parsed.passed_over.items()
            if split in (self.split, "")
        ]

    def _no_images(self, own: list[int], findings: list[Finding]) -> str:
        if not own:
            splits = ", ".join(sorted(self.splits(self.source)))
            return (
                f"{self.source}: there is no {self.split} split (found: {splits or 'none'}); "
                f"put its files into a folder {self.split}"
            )
        first = next((str(finding) for finding in findings if finding.is_error), "")
        return f"{self.source}: the {self.split} split has no usable images, {first or 'add some'}"


@lru_cache(maxsize=1)  # the classes and both splits come from it
def _parse(kind: type[RecordReader], place: Path, files: tuple[tuple[Path, object], ...]) -> _Parsed:
    """Read all files of a data set.

    Raises:
        InputError: None of them has a class.
    """
    parsed, rule = _Parsed(), kind.split_rule(place)
    names: list[str] = []
    numbers: dict[str, int] = {}
    for path, _ in files:
        try:
            document = load(path)
        except (InputError, OSError) as error:
            split = rule(path, record := Record([path.stem], ())) or "train"
            parsed.findings.append((len(parsed.images), Finding.from_error("broken file", error)))
            parsed.images.append((record, path, split))
            continue
        if not kind.recognises(document):
            parsed.passed_over.setdefault(("", f"the file is not {kind.title}"), []).append(path)
            continue
        try:
            parsed.ordered |= dict.fromkeys(kind.class_list(document))
            entries = list(kind.entries(document, path))
        except InputError:
            raise
        except _MALFORMED as error:
            parsed.findings.append((-1, _malformed(str(path), error)))
            continue
        for number, entry in enumerate(entries, start=1):
            _parse_entry(kind, parsed, entry, number, path, rule, numbers)
    names = list(numbers)
    order = list(parsed.ordered) or sorted(names)
    order += sorted(set(names) - set(order))
    places = np.array([order.index(name) for name in names], np.int64)
    parsed.classes = array("q", places[np.array(parsed.classes, np.int64)].tolist())
    parsed.names = tuple(order)
    if not order:
        errors = (str(finding) for _, finding in parsed.findings if finding.is_error)
        raise InputError(
            next(errors, f"{place}: there is no label in its {kind.title} files; label some images")
        )
    return parsed


def _parse_entry(
    kind: type[RecordReader],
    parsed: _Parsed,
    entry: Any,
    number: int,
    path: Path,
    rule: Callable[[Path, Record], str],
    numbers: dict[str, int],
) -> None:
    """Add what a file says about one image."""
    try:
        record = kind.record(entry, path)
    except NotLabelledError as reason:
        parsed.passed_over.setdefault(("", str(reason)), []).append(path)
        return
    except _MALFORMED as error:
        parsed.findings.append((-1, _malformed(f"{path}: image {number}", error)))
        return
    image, split = len(parsed.images), record.split or rule(path, record) or "train"
    parsed.images.append((record._replace(objects=()), path, split))
    for row, item in enumerate(record.objects, start=1):
        try:
            name, box, crowd = kind.label(item, record)
            name = name.strip()
            if not (name and all(map(math.isfinite, box))):
                raise ValueError("no class or no finite numbers")
        except NotLabelledError as reason:
            parsed.passed_over.setdefault((split, str(reason)), []).append(path)
        except _MALFORMED as error:
            where = f"{path}: object {row} of {record.names[0][:200]}"
            parsed.findings.append((image, _malformed(where, error)))
        else:
            parsed.image.append(image)
            parsed.row.append(row)
            parsed.classes.append(numbers.setdefault(name, len(numbers)))
            parsed.boxes.extend(box)
            parsed.crowd.append(crowd)


def _malformed(where: str, error: Exception) -> Finding:
    what = f"it is not written as the format says ({type(error).__name__}: {str(error)[:80]})"
    return Finding("malformed annotation", where, what, "correct or remove it", is_error=True)


def _look(path: str, size: tuple[int, int] | None) -> tuple[tuple[int, int], Finding | None]:
    """Height and width in px of an image, and what is wrong with it."""
    try:
        if size is None:
            return header_size(path), None
        refuse_other_size(path, size)
        return size, None
    except InputError as error:
        return (1, 1), Finding.from_error("image does not fit", error, path)


def whole_size(height: Any, width: Any) -> tuple[int, int] | None:
    """Height and width of an image in px; None if the file does not know them."""
    try:
        size = int(float(height)), int(float(width))
    except (TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None
