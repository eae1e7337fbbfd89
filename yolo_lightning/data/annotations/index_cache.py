"""Cache of a split's index: one process of a machine reads the data set, the others and later runs the file.

A file is named after everything its index depends on that is known without reading the annotations: their
sizes and times (for YOLO those of the images, too), the given paths, and the code of the readers. For COCO,
the images are looked for again when the file is loaded. The file is an uncompressed ``.npz``: arrays and
one JSON text, with checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...system.files import remove_leftovers, whole_file
from ..cache_folder import disk_folder, lock_folder
from .coco import image_folders, read_coco, root_of
from .index import DatasetIndex, missing_files
from .summary import IndexReport
from .yolo import label_path, list_split, read_data_yaml, read_yolo, resolve

_FORMAT = 2  # change it with the layout of the file, or old files would be misread
_READERS = ("coco.py", "../images/decode.py", "index.py", "summary.py", "yolo.py")
"""Source files that determine an index; paths are relative to this file."""
_ARRAYS = (
    *("category_ids", "path_offsets", "image_ids", "sizes", "offsets"),
    *("classes", "boxes", "areas", "crowd", "trainable"),
)
_CHUNK_IMAGES = 500
"""Images that one thread looks at in one go."""


@dataclass(frozen=True)
class Reading(ABC):
    """A split to read.

    Attributes:
        source: The COCO JSON or the YOLO data.yaml.
        split: ``train``, ``val`` or ``test``.
        images: Folder (YOLO: or .txt list) of the images, if given.
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
        """Everything that the index depends on and that is known before reading, as values with a ``repr``.

        Raises:
            InputError: Something is wrong already.
            OSError: A file cannot be looked at.
        """

    def agrees(self, index: DatasetIndex) -> bool:
        """True if reading would still give this index, which was read when the facts were the same."""
        return True


@dataclass(frozen=True)
class CocoReading(Reading):
    """A split of a COCO JSON, and the folder under which its images are looked for, if given."""

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
        paths = [os.fsdecode(index.path_bytes[a:b]) for a, b in pairwise(index.path_offsets.tolist())]
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
        with ThreadPoolExecutor(16) as pool:  # on a network file system each look is a wait
            yield from pool.map(_image_stamps, chunks)


def read_once(reading: Reading) -> DatasetIndex:
    """The index of a split from its cache file; if none fits, read the split and write the file.

    Of several processes, one reads and the others wait for its file. If the file cannot be written, because
    a folder is read-only or a disk is full, the index is used all the same.

    Raises:
        InputError: Something in the data is wrong.
    """
    path = index_path(reading)
    if path is None:
        return reading.read()
    index = _load(path, reading)
    if index is not None:
        return index
    try:
        lock = lock_folder(path.parent, "index.lock")
    except OSError:
        return reading.read()
    with lock:
        index = _load(path, reading)  # another process may have written it by now
        if index is None:
            index = reading.read()
            with suppress(OSError):  # without room or permission, the next run reads again
                _save(index, path)
        return index


def index_path(reading: Reading) -> Path | None:
    """The cache file of a split; None if something is so wrong that reading will fail."""
    digest = hashlib.sha256()
    try:
        for fact in (_FORMAT, _code(), type(reading).__name__, reading.split, *reading.facts()):
            digest.update(repr(fact).encode())
        folder = disk_folder(reading.folder)
    except (InputError, OSError):
        return None
    source = hashlib.sha256(os.path.abspath(reading.source).encode(errors="surrogateescape")).hexdigest()
    return folder / f"{source[:8]}_{reading.split}_index_{digest.hexdigest()[:16]}.npz"


@cache
def _code() -> str:
    """A digest of the readers: an index read by another version may be wrong."""
    here = Path(__file__).parent
    return hashlib.sha256(b"".join((here / name).read_bytes() for name in _READERS)).hexdigest()


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    """Values that change with the content of a file; st_ctime does so even if st_mtime was put back."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _image_stamps(images: Sequence[str]) -> list[tuple[str, object, object]]:
    """Each image with the stamps of its file and of its label file."""

    def stamp(path: str) -> object:
        try:
            return _stamp(os.stat(path))
        except OSError as error:
            return error.errno

    return [(image, stamp(image), stamp(label_path(image))) for image in images]


def _are_found_first(paths: Sequence[str], folders: Sequence[Path]) -> bool:
    """False if a folder that is searched before that of the images has all of them by now, too."""
    for n, folder in enumerate(folders):
        prefix = os.path.join(os.path.abspath(folder), "")
        if not all(path.startswith(prefix) for path in paths):
            continue  # not their folder
        for earlier in folders[:n]:
            if all(os.path.lexists(os.path.join(earlier, path[len(prefix) :])) for path in paths):
                return False
    return True


def _save(index: DatasetIndex, path: Path) -> None:
    """Write the file, and remove those that it replaces."""
    remove_leftovers(path.parent)
    facts = {
        "root": str(index.root),
        "split": index.split,
        "source": str(index.source),
        "class_names": index.class_names,
        "report": asdict(index.report),
    }
    texts = {"facts": json.dumps(facts).encode(), "path_bytes": index.path_bytes}
    arrays: dict[str, Any] = {name: np.frombuffer(text, np.uint8) for name, text in texts.items()}
    arrays |= {name: getattr(index, name) for name in _ARRAYS}
    with whole_file(path, sync=False) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    family = path.name.rsplit("_", 1)[0]
    for stale in path.parent.glob(f"{family}_*"):
        if stale != path:
            stale.unlink(missing_ok=True)


def _load(path: Path, reading: Reading) -> DatasetIndex | None:
    """The index in a file; None if there is no file, or it is damaged or out of date."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if file.zip.testzip() is not None:  # numpy does not look at checksums of what it leaves unread
                return None
            facts: dict[str, Any] = json.loads(file["facts"].tobytes())
            path_bytes = file["path_bytes"].tobytes()
            arrays = {name: file[name] for name in _ARRAYS}
    except Exception:  # a damaged archive raises errors of nearly every kind
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
