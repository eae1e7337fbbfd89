"""Cache of a split's index: one process of a machine reads the data set, the others and later runs the file.

A file is named after the facts of its reader (sizes and times of files, the given paths) and the code of the
readers; that the images exist is checked when it is loaded. It holds arrays and one JSON text.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ..cache_folder import NoRoom, disk_folder, lock_folder
from ..signed_arrays import read_arrays, write_arrays
from .findings import Finding
from .index import DatasetIndex, missing_files
from .outlines import Outlines
from .reader import SplitReader, refuse_outside, stamp


def read_once(reader: SplitReader) -> DatasetIndex:
    """The index of a split from its cache file; if none fits, read the split and write the file.

    Of several processes, one reads and the others wait for its file. If the file cannot be written, because
    a folder is read-only or a disk is full, the index is used all the same; one of its findings says so.

    Raises:
        InputError: Something in the data is wrong.
    """
    path = index_path(reader)
    if path is None:
        return reader.read()
    try:
        with lock_folder(path.parent, "index.lock"):
            index = _load(path, reader.roots())
            if index is None:
                index = reader.read()
                with suppress(OSError):  # without room or permission, the next run reads again
                    _save(index, path)
            return index
    except NoRoom as error:
        index = reader.read()
        finding = Finding.from_error("no cache", error, is_error=False)
        return replace(index, findings=(*index.findings, finding))


def index_path(reader: SplitReader) -> Path | None:
    """The cache file of a split; None if something is so wrong that reading will fail."""
    digest = hashlib.sha256()
    try:
        for fact in (_code(), type(reader).__name__, reader.split, reader.keep_outlines, *reader.facts()):
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
    fields = {name: value for name, value in vars(index).items() if name != "from_cache"}
    arrays = {name: fields.pop(name) for name, value in vars(index).items() if isinstance(value, np.ndarray)}
    path_bytes = fields.pop("path_bytes")
    if outlines := fields.pop("outlines"):
        arrays |= {f"outline_{name}": array for name, array in outlines._asdict().items()}
    fields["stamps"] = _stamps(index.findings)
    texts = {"texts": json.dumps(fields, default=str).encode(), "path_bytes": path_bytes}  # str: of a Path
    write_arrays(path, arrays | {name: np.frombuffer(text, np.uint8) for name, text in texts.items()})


def _stamps(findings: Sequence[Finding]) -> list[list[int]]:
    """Stamps of the images that are left out: the facts of a reader may not have them."""
    stamps = []
    for image in dict.fromkeys(finding.image for finding in findings if finding.is_error):
        try:
            stamps.append(list(stamp(os.stat(image))))
        except OSError:
            stamps.append([])
    return stamps


def _load(path: Path, roots: Sequence[str] | None) -> DatasetIndex | None:
    """The index in a file; None if there is no file, it is damaged or forged, or an image has changed."""
    try:
        fields: dict[str, Any] = dict(read_arrays(path))
        fields |= json.loads(fields.pop("texts").tobytes())
        fields["class_names"] = tuple(fields["class_names"])
        fields["findings"] = tuple(Finding(*values) for values in fields["findings"])
        fields |= {name: Path(fields[name]) for name in ("root", "source")}
        outlines = {name: fields.pop(f"outline_{name}", None) for name in Outlines._fields}
        fields["outlines"] = None if outlines["points"] is None else Outlines(**outlines)
        if fields.pop("stamps") != _stamps(fields["findings"]):
            return None
        index = DatasetIndex(**{**fields, "path_bytes": fields["path_bytes"].tobytes(), "from_cache": True})
    except Exception:  # a damaged archive raises errors of nearly every kind
        return None
    paths = index.paths()
    refuse_outside(paths, roots)
    return None if missing_files(paths) else index
