"""The index of a split kept in a file: read once by the processes of a machine and by all later runs.

A file is named after what its index depends on, as far as that is known without reading it: sizes and
times of the annotations (for YOLO of the images, too), the paths that were given, and the code of the
readers. For COCO the rest, which images are there, is looked at when the file is loaded. It is written
under another name and renamed, ends in its size and checksum, and holds nothing but numbers and text.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import InputError
from ...system.files import take_lock
from ..cache_folder import disk_folder
from .coco import image_folders, read_coco, root_of
from .index import DatasetIndex, missing_files
from .summary import IndexReport
from .yolo import label_path, list_split, read_data_yaml, read_yolo, resolve

_FORMAT = 1  # a change of how an index is written must change this, or old files would be misread
_READERS = ("coco.py", "../images/decode.py", "index.py", "summary.py", "yolo.py")
"""Source files that determine an index; paths are relative to this file."""
_IMAGE_ARRAYS = ("category_ids", "path_offsets", "image_ids", "sizes", "offsets")
_LABEL_ARRAYS = ("classes", "boxes", "areas", "crowd", "trainable")
_END = struct.Struct("<QI")
"""The last bytes of a file: how many come before, and their CRC-32."""
_CHUNK_BYTES = 1 << 20
_CHUNK_IMAGES = 500
"""Images that one thread looks at in one go."""


@dataclass(frozen=True)
class Reading(ABC):
    """What a reader is asked for.

    Attributes:
        source: The COCO JSON or the YOLO data.yaml.
        split: ``train``, ``val`` or ``test``.
        images: Folder (YOLO: or .txt list) of the images, when one was given.
    """

    source: Path
    split: str
    images: Path | None = None

    @abstractmethod
    def read(self) -> DatasetIndex:
        """Read and validate the split.

        Raises:
            InputError: Something in it is wrong.
        """

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Folder of the data set."""

    @abstractmethod
    def facts(self) -> Iterator[object]:
        """All that the index depends on and that is known before it is read, as values with a ``repr``.

        Raises:
            InputError: Something is wrong already.
            OSError: A file cannot be looked at.
        """

    @abstractmethod
    def agrees(self, index: DatasetIndex) -> bool:
        """Whether reading would still give an index that was read when the facts were the same."""


@dataclass(frozen=True)
class CocoReading(Reading):
    """A COCO JSON, and the folder under which its images are looked for when one was given."""

    root: Path | None = None

    @property
    def folder(self) -> Path:
        return self.root or root_of(self.source)

    def read(self) -> DatasetIndex:
        return read_coco(self.source, self.split, root=self.root, images=self.images)

    def facts(self) -> Iterator[object]:
        paths = (self.source, self.folder, self.images)
        yield [path and (str(path), os.path.abspath(path)) for path in paths]
        yield _stamp(os.stat(self.source))

    def agrees(self, index: DatasetIndex) -> bool:
        folders = [self.images] if self.images else image_folders(self.folder, self.split, self.source)
        paths = _paths(index)
        return not missing_files(paths) and _are_found_first(paths, folders)


@dataclass(frozen=True)
class YoloReading(Reading):
    """A split of a YOLO data.yaml."""

    @property
    def folder(self) -> Path:
        return self.source.parent

    def read(self) -> DatasetIndex:
        return read_yolo(self.source, self.split, images=self.images)

    def facts(self) -> Iterator[object]:
        yield str(self.source), self.source.read_bytes()
        description = read_data_yaml(self.source)
        entries = description.splits.get(self.split, ())
        places = [self.images] if self.images else [resolve(description, self.split, e) for e in entries]
        listed = [image for place in places for image in list_split(place, description)]
        chunks = [listed[n : n + _CHUNK_IMAGES] for n in range(0, len(listed), _CHUNK_IMAGES)]
        with ThreadPoolExecutor(16) as pool:  # on a network each look is a wait
            yield from pool.map(_image_stamps, chunks)

    def agrees(self, index: DatasetIndex) -> bool:
        return True  # the facts are all


def read_once(reading: Reading) -> DatasetIndex:
    """The index of a split from its file; read and kept there if there is none that fits.

    Of several processes one reads, the others wait for its file. An index that cannot be kept, because
    a folder is read-only or a disk is full, is used as it was read.

    Raises:
        InputError: Something in the data is wrong.
    """
    path = index_path(reading)
    if path is None:
        return reading.read()
    index = _load(path, reading)
    if index is not None:
        return index
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.with_name("index.lock").open("w"))
        except OSError:
            return reading.read()
        is_alone = take_lock(file)
        index = _load(path, reading)  # of the process that was first
        if index is None:
            index = reading.read()
            _save(index, path, is_alone)
        return index


def index_path(reading: Reading) -> Path | None:
    """Where the index of a split is kept; None where something is so wrong that reading will fail."""
    digest = hashlib.sha256()
    try:
        for fact in (_FORMAT, _code(), type(reading).__name__, reading.split, *reading.facts()):
            digest.update(repr(fact).encode())
        folder = disk_folder(reading.folder)
    except (InputError, OSError):
        return None
    source = hashlib.sha256(os.path.abspath(reading.source).encode(errors="surrogateescape")).hexdigest()
    return folder / f"{source[:8]}_{reading.split}_index_{digest.hexdigest()[:16]}.npys"


@cache
def _code() -> str:
    """A digest of the readers: what another version of them has read may be wrong."""
    here = Path(__file__).parent
    return hashlib.sha256(b"".join((here / name).read_bytes() for name in _READERS)).hexdigest()


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    """What changes with the content of a file; st_ctime also where its time of change was put back."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _image_stamps(images: Sequence[str]) -> list[tuple[str, object, object]]:
    """Each image with the stamps of its file and of its label file."""

    def stamp(path: str) -> object:
        try:
            return _stamp(os.stat(path))
        except OSError as error:
            return error.errno

    return [(image, stamp(image), stamp(label_path(image))) for image in images]


def _paths(index: DatasetIndex) -> list[str]:
    return [os.fsdecode(index.path_bytes[a:b]) for a, b in pairwise(index.path_offsets.tolist())]


def _are_found_first(paths: Sequence[str], folders: Sequence[Path]) -> bool:
    """Whether no folder that is looked into before that of the images has all of them by now, too."""
    for n, folder in enumerate(folders):
        prefix = os.path.join(os.path.abspath(folder), "")
        if not all(path.startswith(prefix) for path in paths):
            continue  # not their folder
        for earlier in folders[:n]:
            if all(os.path.lexists(os.path.join(earlier, path[len(prefix) :])) for path in paths):
                return False
    return True


def _save(index: DatasetIndex, path: Path, is_alone: bool) -> None:
    """Write a file and remove those of the same split and source that it replaces."""
    family = path.name.rsplit("_", 1)[0]
    # A name of its own: where the file system has no locks, two may write at once.
    part = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.part")
    facts = {
        "root": str(index.root),
        "split": index.split,
        "source": str(index.source),
        "class_names": index.class_names,
        "report": asdict(index.report),
    }
    with suppress(OSError):  # there is no room, or nothing may be written: the next run reads again
        if is_alone:  # what killed processes have left
            for rest in path.parent.glob(f"{family}_*.part"):
                rest.unlink(missing_ok=True)
        try:
            with part.open("w+b") as file:
                for text in (json.dumps(facts).encode(), index.path_bytes):
                    np.save(file, np.frombuffer(text, np.uint8), allow_pickle=False)
                for name in _IMAGE_ARRAYS + _LABEL_ARRAYS:
                    np.save(file, getattr(index, name), allow_pickle=False)
                file.flush()
                size = file.tell()
                file.write(_END.pack(size, _checksum(file, size)))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        for stale in path.parent.glob(f"{family}_*{path.suffix}"):
            if stale != path:
                stale.unlink(missing_ok=True)


def _load(path: Path, reading: Reading) -> DatasetIndex | None:
    """The index in a file; None if there is no file, or it is damaged or no longer right."""
    try:
        with path.open("rb") as file:
            if not _is_whole(file):
                return None
            text, path_bytes = (np.load(file, allow_pickle=False).tobytes() for _ in range(2))
            arrays = {name: np.load(file, allow_pickle=False) for name in _IMAGE_ARRAYS + _LABEL_ARRAYS}
        facts: dict[str, Any] = json.loads(text)
    except (OSError, ValueError):  # the latter: not written here
        return None
    report: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts["report"].items()}
    index = DatasetIndex(
        root=Path(facts["root"]),
        split=facts["split"],
        source=Path(facts["source"]),
        class_names=tuple(facts["class_names"]),
        path_bytes=path_bytes,
        report=IndexReport(**{**report, "from_cache": True}),
        **arrays,
    )
    return index if reading.agrees(index) else None


def _is_whole(file: BinaryIO) -> bool:
    """Whether a file ends in its own size and checksum; goes back to its start."""
    size = os.fstat(file.fileno()).st_size - _END.size
    if size < 0:
        return False
    file.seek(size)
    is_whole = _END.unpack(file.read()) == (size, _checksum(file, size))
    file.seek(0)
    return is_whole


def _checksum(file: BinaryIO, size: int) -> int:
    """CRC-32 of the first bytes of a file; leaves off behind them."""
    file.seek(0)
    checksum = 0
    for begin in range(0, size, _CHUNK_BYTES):
        checksum = zlib.crc32(file.read(min(_CHUNK_BYTES, size - begin)), checksum)
    return checksum
