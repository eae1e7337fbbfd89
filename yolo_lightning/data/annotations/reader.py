"""Base class of the readers: one format of data sets a subclass, one subclass a file."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ...errors import InputError
from .index import DatasetIndex, IntArray

Classes = tuple[tuple[str, ...], IntArray]
"""Names of the classes 0 .. C-1, and the COCO id of each, int64 (C,)."""
_CHUNK = 500  # paths of a look


@dataclass(frozen=True)
class SplitReader(ABC):
    """One split of a data set in one format; ``source.FORMATS`` lists the formats.

    Attributes:
        source: File that describes the split, such as the COCO JSON or the data.yaml.
        split: ``train``, ``val`` or ``test``.
        images: Folder of the images, if given; a format may take something else, too.
        is_given: The user named ``source`` itself, not a folder that somebody else may have filled.
        allow_outside: Images may lie anywhere.
        keep_outlines: Keep the outlines of objects where the format has any.
    """

    name: ClassVar[str]
    """The format as ``data.format`` names it."""

    source: Path
    split: str
    images: Path | None = None
    is_given: bool = field(default=False, kw_only=True)
    allow_outside: bool = field(default=False, kw_only=True)
    keep_outlines: bool = field(default=False, kw_only=True)

    @staticmethod
    @abstractmethod
    def find(root: Path) -> Path | None:
        """The folder or file that describes the data set ``root``; None if ``root`` is of another format."""

    @staticmethod
    @abstractmethod
    def classes(place: Path, splits: Sequence[str]) -> Classes:
        """The classes of the data set that ``find`` has found; of ``splits`` if each split names them itself.

        Options are parsed meanwhile, so it must be fast.
        """

    @classmethod
    def splits(cls, place: Path) -> frozenset[str]:
        """The splits of the data set that ``find`` has found; none if the format cannot tell."""
        return frozenset()

    @classmethod
    def of_split(cls, place: Path, split: str, images: Path | None) -> SplitReader:
        """The reader of a split of the data set that ``find`` has found.

        Raises:
            InputError: There is no such split.
        """
        return cls(place, split, images)

    @property
    def layout(self) -> str:
        """The format and the layout of the files, for the line that says what was read."""
        return type(self).__name__.removesuffix("Reader").upper()

    @property
    def folder(self) -> Path:
        """Folder of the data set."""
        return self.source.parent

    def named_folders(self) -> list[Path]:
        """The folders that the user named, where images belong."""
        given = [self.images if self.images.is_dir() else self.images.parent] if self.images else []
        return [*given, self.folder]

    def roots(self) -> list[str] | None:
        """``named_folders``, resolved; None if images may lie anywhere."""
        return None if self.allow_outside else list(map(os.path.realpath, self.named_folders()))

    @abstractmethod
    def read(self) -> DatasetIndex:
        """Read and validate the split.

        Raises:
            InputError: Something in it is wrong; the message names the file and the line or key.
        """

    @abstractmethod
    def facts(self) -> Iterator[object]:
        """Everything that the index depends on but the existence of the images: values with a ``repr``.

        The index cache compares them, so they must cost less than :meth:`read`.

        Raises:
            InputError: Something is wrong already; :meth:`read` will say so.
            OSError: Likewise.
        """


def look_in_threads(look: Callable[[Sequence[str]], object], paths: Sequence[str]) -> Iterator[object]:
    """Results of ``look`` for 500 paths each, in order. On a network file system the looks wait together."""
    chunks = [paths[n : n + _CHUNK] for n in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor(16) as pool:
        yield from pool.map(look, chunks)


def stamp(status: os.stat_result) -> tuple[int, int, int]:
    """Values that change with the content of a file; st_ctime does so even if st_mtime was put back."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def refuse_outside(paths: Sequence[str], roots: Sequence[str] | None) -> None:
    """Refuse paths that lie outside of some resolved folders or lead there, and what is no file.

    Raises:
        InputError: There is such a path, and ``roots`` is not None.
    """
    folders = {os.path.dirname(path) for path in paths} if roots is not None else set()
    odd = {os.path.join(folder, name) for folder in folders for name in _not_plain(folder)}
    bad = {folder for folder in folders if not is_inside(folder, roots)}
    bad |= {path for path in odd.intersection(paths) if not (os.path.isfile(path) and is_inside(path, roots))}
    for path in paths if bad else ():
        if path in bad and is_inside(path, roots):
            raise InputError(f"{path}: is no file, but a folder, a pipe or a broken link; remove it")
        if path in bad or os.path.dirname(path) in bad:
            raise InputError(
                f"{path}: leads to {os.path.realpath(path)}, which is no file in {' or '.join(roots or ())}; "
                "copy it there, or set --data.allow_outside true if you trust the data set"
            )


def is_inside(path: str, roots: Sequence[str] | None) -> bool:
    """True if a path leads into one of some resolved folders; None means anywhere."""
    real = os.path.realpath(path)
    return roots is None or any(real == r or real.startswith(r.rstrip(os.sep) + os.sep) for r in roots)


def _not_plain(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if not entry.is_file(follow_symlinks=False))
    except OSError:  # there is no such folder
        return frozenset()
