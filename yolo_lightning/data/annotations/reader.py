"""Base class of the readers: one format of data sets a subclass, one subclass a file."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .index import DatasetIndex, IntArray

Classes = tuple[tuple[str, ...], IntArray]
"""Names of the classes 0 .. C-1, and the COCO id of each, int64 (C,)."""


@dataclass(frozen=True)
class SplitReader(ABC):
    """One split of a data set in one format; ``source.FORMATS`` lists the formats.

    Attributes:
        source: File that describes the split, such as the COCO JSON or the data.yaml.
        split: ``train``, ``val`` or ``test``.
        images: Folder of the images, if given; a format may take something else, too.
    """

    source: Path
    split: str
    images: Path | None = None

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


def stamp(status: os.stat_result) -> tuple[int, int, int]:
    """Values that change with the content of a file; st_ctime does so even if st_mtime was put back."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
