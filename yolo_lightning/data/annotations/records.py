"""Base class of formats whose files list the objects of each image, as most labelling tools write them."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ...errors import InputError
from ..images.decode import header_size, refuse_other_size
from .documents import LOOKED_AT, BrokenFileError, files_below, load, load_again
from .findings import Finding
from .image_files import ImageFiles, split_in
from .index import Annotations, DatasetIndex, build_index, ids_from_paths
from .outlines import Box, ShapeError
from .reader import Classes, SplitReader, look_in_threads, refuse_outside, stamp
from .spelling import path_parts
from .yolo import images_below

_MALFORMED = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
"""What reading of content raises that is not as its format says."""


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


class _Image(NamedTuple):
    record: Record  # without objects
    file: Path  # of the annotations
    split: str
    labels: list[tuple[int, Label]]  # each with the number of its object, from 1
    errors: list[Finding]


class _Parsed(NamedTuple):
    names: tuple[str, ...]  # of the classes
    images: list[_Image]  # of all splits
    findings: list[tuple[str, Finding]]  # each with its split, "" for all


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
        """The entries of the content, one an image."""
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
    def annotation_files(cls, place: Path) -> list[str]:
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
        return frozenset(image.split for image in cls._parsed(place).images) - {"none"}

    @property
    def layout(self) -> str:
        return self.title

    @property
    def folder(self) -> Path:
        return self.source if self.source.is_dir() else self.source.parent

    def facts(self) -> Iterator[object]:
        files = self.annotation_files(self.source)
        files += images_below(self.images or self.folder, self.roots())
        yield from look_in_threads(_stamps, files)

    @classmethod
    def _parsed(cls, place: Path) -> _Parsed:
        files = cls.annotation_files(place)
        return _parse(cls, place, tuple(_stamps(files)))

    def read(self) -> DatasetIndex:
        parsed, roots = self._parsed(self.source), self.roots()
        refuse_outside(self.annotation_files(self.source), roots)
        listed = images_below(self.images or self.folder, roots)
        files = ImageFiles(listed, str(self.folder), self.allow_outside)
        own = [image for image in parsed.images if image.split == self.split]
        found: dict[str, _Image] = {}
        findings = [finding for split, finding in parsed.findings if split in (self.split, "")]
        for image in own:
            record, file = image.record, image.file
            path = files.find(record.names, file.parent, self.split) or ""
            findings += [error._replace(image=path) for error in image.errors]
            if path in found:
                what = f"{path} is annotated by {found[path].file}, too, which is used"
                findings.append(Finding("repeated image", str(file), what, "keep one"))
            elif path:
                found[path] = image
            elif not image.errors:
                names = " or ".join(name[:200] for name in dict.fromkeys(record.names) if name)
                what = f"its image {names} is not below the folder, or is there several times"
                missing = os.path.join(file.parent, *path_parts(record.names[0]))
                findings.append(Finding("missing image", str(file), what, record.remedy, missing, True))
        if not found:
            raise InputError(self._no_images(parsed, own, findings))
        has_others = len(own) < len(parsed.images)
        mine = (path for path in listed if not has_others or files.split(path) == self.split)
        if bare := [path for path in mine if path not in found]:
            what = f"{len(bare):,} images have no annotations and are left out, such as {bare[0]}"
            remedy = "annotate them, as empty if they are"
            findings.append(Finding("not annotated", str(self.source), what, remedy))
        return self._index(parsed.names, dict(sorted(found.items())), findings)

    def _index(
        self, names: tuple[str, ...], found: dict[str, _Image], findings: list[Finding]
    ) -> DatasetIndex:
        with ThreadPoolExecutor(16) as pool:
            looks = list(pool.map(_look, found, (image.record.size for image in found.values())))
        labels = [label for image in found.values() for label in image.labels]
        counts = [len(image.labels) for image in found.values()]
        numbers = {name: number for number, name in enumerate(names)}
        boxes = np.array([label.box for _, label in labels], np.float64).reshape(-1, 4)
        return build_index(
            root=self.folder,
            split=self.split,
            source=self.source,
            class_names=names,
            category_ids=np.arange(1, len(names) + 1, dtype=np.int64),
            paths=list(found),
            image_ids=ids_from_paths(list(found)),
            sizes=np.array([size for size, _ in looks], np.int32),
            annotations=Annotations(
                image=np.repeat(np.arange(len(found)), counts),
                row_id=np.array([row for row, _ in labels], np.int64),
                classes=np.array([numbers[label.name] for _, label in labels], np.int64),
                boxes=boxes,
                areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
                crowd=np.array([label.crowd for _, label in labels], np.bool_),
            ),
            describe=lambda path, row: f"{found[path].file}: object {row} of {os.path.basename(path)}",
            findings=[*findings, *(finding for _, finding in looks if finding)],
        )

    def _no_images(self, parsed: _Parsed, own: list[_Image], findings: list[Finding]) -> str:
        if not own:
            splits = ", ".join(sorted({image.split for image in parsed.images}))
            what = f"{self.source}: there is no {self.split} split (found: {splits or 'none'})"
            return f"{what}; put its files into a folder {self.split}"
        first = next((str(finding) for finding in findings if finding.is_error), "add some")
        return f"{self.source}: the {self.split} split has no usable images, {first}"


def _stamps(paths: Sequence[str]) -> list[tuple[str, object]]:
    return [(path, stamp(os.stat(path))) for path in paths]


@lru_cache(maxsize=1)  # the classes and both splits come from it
def _parse(kind: type[RecordReader], place: Path, files: tuple[tuple[str, object], ...]) -> _Parsed:
    """Read all files of a data set.

    Raises:
        InputError: None of them has a class.
    """
    parsed, rule = _Parsed((), [], []), kind.split_rule(place)
    passed_over: dict[tuple[str, str], list[Path]] = {}  # by split and reason
    order: dict[str, None] = {}
    for path in (Path(path) for path, _ in files):
        try:
            document = load(path)
            if not kind.recognises(document):
                raise NotLabelledError(f"the file is not {kind.title}")
            order |= dict.fromkeys(kind.class_list(document))
            entries = list(kind.entries(document, path))
        except NotLabelledError as reason:
            passed_over.setdefault(("", str(reason)), []).append(path)
        except BrokenFileError as error:
            record = Record([path.stem], ())
            split = rule(path, record) or "train"
            parsed.images.append(_Image(record, path, split, [], [Finding.from_error("broken file", error)]))
        except InputError:
            raise
        except _MALFORMED as error:
            parsed.findings.append(("", _malformed(str(path), error, kind)))
        else:
            for number, entry in enumerate(entries, start=1):
                try:
                    record = kind.record(entry, path)
                    record = record._replace(names=list(map(str, record.names)), objects=list(record.objects))
                except NotLabelledError as reason:
                    passed_over.setdefault(("", str(reason)), []).append(path)
                except _MALFORMED as error:
                    parsed.findings.append(("", _malformed(f"{path}: image {number}", error, kind)))
                else:
                    split = record.split or rule(path, record) or "train"
                    parsed.images.append(_read_labels(kind, record, path, split, passed_over))
    for (split, why), where in passed_over.items():
        what = f"{why} ({len(where):,} such are passed over)"
        parsed.findings.append(
            (split, Finding("passed over", str(where[0]), what, "make sure that none is needed"))
        )
    used = {label.name for image in parsed.images for _, label in image.labels}
    names = [*order, *sorted(used - order.keys())]
    if not names:
        errors = [error for image in parsed.images for error in image.errors]
        errors += [finding for _, finding in parsed.findings if finding.is_error]
        nothing = f"{place}: there is no label in its {kind.title} files; label some images"
        raise InputError(str(errors[0]) if errors else nothing)
    return parsed._replace(names=tuple(names))


def _read_labels(
    kind: type[RecordReader],
    record: Record,
    path: Path,
    split: str,
    passed_over: dict[tuple[str, str], list[Path]],
) -> _Image:
    image = _Image(record._replace(objects=()), path, split, [], [])
    for row, item in enumerate(record.objects, start=1):
        try:
            label = kind.label(item, record)
            label = label._replace(name="" if label.name is None else str(label.name).strip())
            if not label.name:
                raise ShapeError("it has no class")
            if not all(map(math.isfinite, label.box)):
                raise ShapeError("its box is not all finite numbers")
            image.labels.append((row, label))
        except NotLabelledError as reason:
            passed_over.setdefault((split, str(reason)), []).append(path)
        except _MALFORMED as error:
            where = f"{path}: object {row} of {record.names[0][:200]}"
            image.errors.append(_malformed(where, error, kind))
    return image


def _malformed(where: str, error: Exception, kind: type[RecordReader]) -> Finding:
    text = str(error)[:80]
    if isinstance(error, ShapeError):
        what = text
    elif isinstance(error, KeyError):
        what = f"it has no {text}"
    elif text.startswith("could not convert string to float: "):
        what = f"{text.partition(': ')[2] or 'a text'} is no number"
    else:
        what = f"a value is missing, or is not what {kind.title} has there"
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
