"""Facts of the image files of a split: each is decoded once, at reduced size, and its facts are kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import InputError
from ...system.cores import usable_cores
from ..annotations.findings import Finding
from ..annotations.index import DatasetIndex
from ..annotations.reader import stamp
from ..cache_folder import NoRoom, disk_folder, lock_folder
from ..images.decode import decode_scaled, read_bytes
from ..signed_arrays import read_arrays, write_arrays
from .look_alikes import COLOURS, describe_looks

SECONDS_PER_IMAGE, SECONDS_PER_MEGAPIXEL = 0.001, 0.01
"""Stated cost of decoding on one core, so that equal data on equal machines are examined equally."""
_CHUNK = 64  # images that a thread looks at in one go
_DECODED_PX = 64, 64  # height or width that is left of a large JPEG

_STARTS: tuple[tuple[bytes, int, str, tuple[str, ...]], ...] = (
    (b"\xff\xd8\xff", 0, "JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")),
    (b"\x89PNG\r\n", 0, "PNG", (".png",)),
    (b"GIF8", 0, "GIF", (".gif",)),
    (b"BM", 0, "BMP", (".bmp", ".dib")),
    (b"WEBP", 8, "WebP", (".webp",)),
    (b"II*\0", 0, "TIFF", (".tif", ".tiff")),
    (b"MM\0*", 0, "TIFF", (".tif", ".tiff")),
)
"""First bytes of formats, where they are, the name, and the suffixes."""


FACTS = np.dtype(
    [
        ("seen", np.bool_),  # False for an image that was not decoded
        ("content", np.uint64),  # hash of the file; 0 if it is broken
        ("bits", np.uint64),  # this and the following: ``look_alikes.Looks``
        ("trimmed", np.uint64),
        ("colours", np.uint8, (COLOURS, COLOURS, 3)),
    ]
)
"""Facts of an image."""
Facts = npt.NDArray[np.void]
"""Facts of the I images of a split, in the order of its index: ``FACTS`` (I,)."""


def estimate_seconds(sizes: npt.NDArray[np.int32]) -> float:
    """Seconds that decoding images of some sizes (I, 2) costs on this machine, by a rule."""
    megapixels = sizes.prod(axis=1, dtype=np.int64).sum() / 1e6
    return float(len(sizes) * SECONDS_PER_IMAGE + megapixels * SECONDS_PER_MEGAPIXEL) / usable_cores()


def examine_images(
    index: DatasetIndex,
    seconds: float,
    keep: bool = True,
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[Facts, list[Finding]]:
    """Decode the images of a split, all of them or an evenly spread sample, and find the broken ones.

    What is known of unchanged files from earlier is taken from a file in the cache folder.

    Args:
        index: The split.
        seconds: Stated cost, see :func:`estimate_seconds`, above which only a sample is decoded.
        keep: Use the file, and write it; one process at a time does.
        progress: Called with the number of further images that were examined.

    Returns:
        The facts of the images, and what is wrong with them.
    """
    try:
        path = _facts_path(index)
        lock: Any = lock_folder(path.parent, "check.lock") if keep else nullcontext()
    except NoRoom:
        keep, lock = False, nullcontext()
    with lock:
        paths = index.paths()
        keys = _keys(paths, index.sizes)
        facts, problems = _load(path, keys) if keep else (np.zeros(len(keys), FACTS), {})
        rest = np.flatnonzero(~facts["seen"])
        step = max(1, int(np.ceil(estimate_seconds(index.sizes[rest]) / seconds)))
        todo = rest[::step].tolist()
        chunks = [todo[n : n + _CHUNK] for n in range(0, len(todo), _CHUNK)]
        sizes = index.sizes.tolist()
        progress(len(paths) - len(todo))
        with ThreadPoolExecutor(2 * usable_cores()) as pool:
            for rows in pool.map(lambda chunk: [(i, *_look(paths[i], sizes[i])) for i in chunk], chunks):
                for i, fact, found in rows:
                    facts[i], problems[i] = fact, found
                progress(len(rows))
        if keep and todo:
            _save(path, keys, facts, problems)
    findings = [finding for i in sorted(problems) for finding in problems[i]]
    if missing := int((~facts["seen"]).sum()):
        what = f"{missing:,} of {len(paths):,} images were not decoded, as that would take too long"
        remedy = "yolo-lightning check decodes all with --seconds inf"
        findings.append(Finding("not decoded", str(index.source), what, remedy, is_note=True))
    return facts, findings


def _look(path: str, size: list[int]) -> tuple[tuple[Any, ...], list[Finding]]:
    """Decode one image; returns its ``FACTS`` and what is wrong with it."""
    found: list[Finding] = []
    try:
        data = read_bytes(path)
        content = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
        found = list(_wrong_suffix(path, data))
        pixels = decode_scaled(data, path, (size[0], size[1]), _DECODED_PX)
    except InputError as error:
        return (True, 0, 0, 0, 0), [*found, Finding.of_image(path, error)]
    return (True, content, *describe_looks(pixels)), found


def _wrong_suffix(path: str, data: bytes) -> Iterator[Finding]:
    suffix = os.path.splitext(path)[1].lower()
    for start, place, name, suffixes in _STARTS:
        if data.startswith(start, place) and suffix not in suffixes:
            what = f"the file is {name}, but its suffix is '{suffix}'"
            yield Finding("wrong suffix", path, what, f"rename it to {suffixes[0]}", path)
            return


def _facts_path(index: DatasetIndex) -> Path:
    source = hashlib.sha256(os.path.abspath(index.source).encode(errors="surrogateescape")).hexdigest()
    return disk_folder(index.root) / f"{source[:8]}_{index.split}_check_{_code()}.npz"


@cache
def _code() -> str:
    """A digest of the code that makes the facts."""
    here = Path(__file__).parent
    files = here / "images.py", here / "look_alikes.py", *sorted((here.parent / "images").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _keys(paths: Sequence[str], sizes: npt.NDArray[np.int32]) -> npt.NDArray[np.uint64]:
    """A number for each image: its path, its size in px, and the stamp of its file, uint64 (I,)."""
    keys = bytearray()
    for path, size in zip(paths, sizes.tolist(), strict=True):
        try:
            facts = (path, size, stamp(os.stat(path)))
        except OSError:
            facts = (path, size, (0, 0, 0))
        keys += hashlib.blake2b(repr(facts).encode(errors="surrogateescape"), digest_size=8).digest()
    return np.frombuffer(bytes(keys), np.uint64)


def _load(path: Path, keys: npt.NDArray[np.uint64]) -> tuple[Facts, dict[int, list[Finding]]]:
    """Facts and findings of images, looked up in the file by their keys."""
    facts, problems = np.zeros(len(keys), FACTS), {}
    try:
        known = read_arrays(path)
        texts = json.loads(known["texts"].tobytes())
        order = np.argsort(known["keys"])
        places = order[np.searchsorted(known["keys"], keys, sorter=order).clip(max=len(order) - 1)]
        same = known["keys"][places] == keys
        facts[same] = known["facts"][places[same]]
        for i, place in zip(np.flatnonzero(same).tolist(), places[same].tolist(), strict=True):
            if found := texts.get(str(place)):
                problems[i] = [Finding(*values) for values in found]
    except Exception:  # a damaged archive raises errors of nearly every kind
        return np.zeros(len(keys), FACTS), {}
    return facts, problems


def _save(path: Path, keys: npt.NDArray[np.uint64], facts: Facts, problems: dict[int, list[Finding]]) -> None:
    seen = facts["seen"]
    places = dict(zip(np.flatnonzero(seen).tolist(), range(len(keys)), strict=False))
    texts = json.dumps({places[i]: found for i, found in problems.items() if found}).encode()
    arrays = {"facts": facts[seen], "keys": keys[seen], "texts": np.frombuffer(texts, np.uint8)}
    try:
        write_arrays(path, arrays)
    except (OSError, NoRoom):
        return  # without room or permission, the next check decodes again
