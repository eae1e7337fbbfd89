"""Decoded, letterboxed images in one memory-mapped file that all workers and ranks share.

A file is named after everything its pixels depend on, written under another name and renamed when
it is complete: what has its final name can be trusted, and a changed image means another name.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import InputError
from .decode import Pixels, load_letterboxed
from .index import DatasetIndex

CacheMode = Literal["none", "ram", "disk"]

FOLDER = ".yolo_lightning_cache"
_FORMAT = 1


class ImageCache:
    """Reads image i as uint8 RGB (S, S, 3); maps the file on first use in each process."""

    def __init__(self, path: Path, images: int, image_size: int) -> None:
        self.path = path
        self.shape = (images, image_size, image_size, 3)
        self._pixels: Any = None

    def __getitem__(self, i: int) -> Pixels:
        if self._pixels is None:
            self._pixels = np.memmap(self.path, np.uint8, "r", shape=self.shape)
        return np.asarray(self._pixels[i])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pixels": None}  # a mapping would be pickled with all its pixels


def open_cache(
    index: DatasetIndex,
    image_size: int,
    train: bool,
    mode: Literal["ram", "disk"],
    announce: Callable[[str], None] = lambda _: None,
) -> ImageCache:
    """The cache of a split, built if there is none that fits.

    Args:
        index: The split.
        image_size: S in px.
        train: Which interpolation, see ``decode.letterbox``.
        mode: ``ram``: in shared memory, removed when the process that opened it on this machine
            ends; ``disk``: in a folder beside the data, or in the user's cache folder where the
            data is read-only.
        announce: Is told where the file goes and how large it is before it is built.

    Raises:
        InputError: There is too little room, or an image cannot be read.
    """
    cache = ImageCache(cache_path(index, image_size, train, mode), len(index), image_size)
    if mode == "ram" and int(os.environ.get("LOCAL_RANK", 0)) == 0:
        atexit.register(_remove, cache.path, os.getpid())
    size = int(np.prod(cache.shape))
    if not (cache.path.is_file() and cache.path.stat().st_size == size):
        _check_room(cache.path.parent, size, mode)
        announce(f"caching {len(index):,} images at {image_size} px, {size / 1e9:.2f} GB, in {cache.path}")
        _build(cache, index, train, mode)
    cache[0]  # map it now: the mapping outlives the name
    return cache


def cache_path(index: DatasetIndex, image_size: int, train: bool, mode: Literal["ram", "disk"]) -> Path:
    """The name of the cache: a digest of the paths, sizes and times of the images, and of the settings."""
    method = "linear" if train else "area"
    digest = hashlib.sha256(repr((_FORMAT, image_size, method)).encode())
    for i in range(len(index)):
        path = index.path(i)
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"{path}: the image cannot be read ({error.strerror}); check the path") from None
        digest.update(repr((str(path), status.st_size, status.st_mtime_ns, index.sizes[i].tolist())).encode())
    data_set = hashlib.sha256(str(index.source).encode()).hexdigest()[:8]
    name = f"{data_set}_{index.split}_{image_size}px_{method}_{digest.hexdigest()[:16]}.uint8"
    return _folder(index, mode) / name


def _folder(index: DatasetIndex, mode: Literal["ram", "disk"]) -> Path:
    if mode == "ram":
        shared = Path("/dev/shm")
        base = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
        return base / f"yolo_lightning_{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    if os.access(index.root, os.W_OK):
        return index.root / FOLDER
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yolo_lightning"


def _check_room(folder: Path, size: int, mode: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: the cache cannot be made there ({error.strerror}); set --data.cache none"
        ) from None
    free = shutil.disk_usage(folder).free
    if mode == "ram":
        free = min(free, _available_memory())
    if size > free:
        other = "disk or none" if mode == "ram" else "none"
        raise InputError(
            f"{folder}: the image cache needs {size / 1e9:.1f} GB but {free / 1e9:.1f} GB are free; make "
            f"room, reduce --data.image_size, or set --data.cache {other}"
        )


def _available_memory() -> int:
    """Bytes that can be taken without swapping; without a limit where Linux does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 1 << 62
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 1 << 62)


def _build(cache: ImageCache, index: DatasetIndex, train: bool, mode: str) -> None:
    part = cache.path.with_suffix(f".{os.getpid()}.part")
    image_size = cache.shape[1]
    try:
        with part.open("wb") as file:
            size = int(np.prod(cache.shape))
            if hasattr(os, "posix_fallocate"):  # room that vanishes later would end in a bus error
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        pixels = np.memmap(part, np.uint8, "r+", shape=cache.shape)

        def fill(i: int) -> None:
            height, width = index.sizes[i].tolist()
            pixels[i], _ = load_letterboxed(index.path(i), image_size, train, (height, width))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(fill, range(len(index))):
                pass
        pixels.flush()
        part.replace(cache.path)
    except OSError as error:
        raise InputError(
            f"{cache.path.parent}: the image cache cannot be written ({error.strerror}); make "
            f"room or set --data.cache none"
        ) from None
    finally:
        part.unlink(missing_ok=True)
    if mode == "disk":  # caches of the same split and settings whose images have changed since
        name = cache.path.name.rsplit("_", 1)[0]
        for stale in cache.path.parent.glob(f"{name}_*.uint8"):
            if stale != cache.path:
                stale.unlink(missing_ok=True)


def _remove(path: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked worker
        path.unlink(missing_ok=True)
