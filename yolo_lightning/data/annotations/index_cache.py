"""Cache of a split's index: one process of a machine reads the data set, the others and later runs the file.

A file is named after the facts of its reader (sizes and times of files, the given paths) and the code of the
readers; that the images exist is checked when it is loaded. It is an uncompressed ``.npz``: arrays and one
JSON text, with checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...system.files import remove_leftovers, whole_file
from ..cache_folder import disk_folder, lock_folder
from .index import DatasetIndex, missing_files
from .reader import SplitReader


def read_once(reader: SplitReader) -> DatasetIndex:
    """The index of a split from its cache file; if none fits, read the split and write the file.

    Of several processes, one reads and the others wait for its file. If the file cannot be written, because
    a folder is read-only or a disk is full, the index is used all the same.

    Raises:
        InputError: Something in the data is wrong.
    """
    path = index_path(reader)
    if path is None:
        return reader.read()
    index = _load(path)
    if index is not None:
        return index
    try:
        lock = lock_folder(path.parent, "index.lock")
    except OSError:
        return reader.read()
    with lock:
        index = _load(path)  # another process may have written it by now
        if index is None:
            index = reader.read()
            with suppress(OSError):  # without room or permission, the next run reads again
                _save(index, path)
        return index


def index_path(reader: SplitReader) -> Path | None:
    """The cache file of a split; None if something is so wrong that reading will fail."""
    digest = hashlib.sha256()
    try:
        for fact in (_code(), type(reader).__name__, reader.split, *reader.facts()):
            digest.update(repr(fact).encode())
        folder = disk_folder(reader.folder)
    except (InputError, OSError):
        return None
    source = hashlib.sha256(os.path.abspath(reader.source).encode(errors="surrogateescape")).hexdigest()
    return folder / f"{source[:8]}_{reader.split}_index_{digest.hexdigest()[:16]}.npz"


@cache
def _code() -> str:
    """A digest of this folder: the index of another version may be wrong, or laid out otherwise."""
    here = Path(__file__).parent
    files = [*sorted(here.glob("*.py")), here.parent / "images/decode.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _save(index: DatasetIndex, path: Path) -> None:
    """Write the file, and remove those that it replaces."""
    remove_leftovers(path.parent)
    fields = {name: value for name, value in vars(index).items() if name != "from_cache"}
    arrays = {name: fields.pop(name) for name, value in vars(index).items() if isinstance(value, np.ndarray)}
    path_bytes = fields.pop("path_bytes")
    texts = {"texts": json.dumps(fields, default=str).encode(), "path_bytes": path_bytes}  # str: of a Path
    arrays |= {name: np.frombuffer(text, np.uint8) for name, text in texts.items()}
    with whole_file(path, sync=False) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    family = path.name.rsplit("_", 1)[0]
    for stale in path.parent.glob(f"{family}_*"):
        if stale != path:
            stale.unlink(missing_ok=True)


def _load(path: Path) -> DatasetIndex | None:
    """The index in a file; None if there is no file, it is damaged, or an image is gone."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if file.zip.testzip() is not None:  # numpy does not look at checksums of what it leaves unread
                return None
            fields: dict[str, Any] = {name: file[name] for name in file.files}
        fields |= json.loads(fields.pop("texts").tobytes())
        fields |= {name: tuple(fields[name]) for name in ("class_names", "problems")}
        fields |= {name: Path(fields[name]) for name in ("root", "source")}
        index = DatasetIndex(**{**fields, "path_bytes": fields["path_bytes"].tobytes(), "from_cache": True})
    except Exception:  # a damaged archive raises errors of nearly every kind
        return None
    return None if missing_files(index.paths()) else index
