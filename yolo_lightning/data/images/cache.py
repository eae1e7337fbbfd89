"""Decoded, letterboxed images in one memory-mapped file that all workers and ranks share.

A file is named after everything its pixels depend on, written under another name and renamed when
it is complete: what has its final name can be trusted, and a changed image means another name.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.console import Console
from rich.progress import track

from ...errors import InputError
from ...system.cores import usable_cores
from ...system.files import take_lock
from ..annotations.index import DatasetIndex
from ..cache_folder import FileMode, NoRoom, disk_folder, free_bytes, make_folder
from .decode import Pixels, draw, read_bytes

_FORMAT = 2  # a change of what the pixels are must change this, or old files would be used


class ImageCache:
    """Reads image i as uint8 RGB (S, S, 3); maps the file on first use in each process."""

    def __init__(self, path: Path, images: int, image_size: int) -> None:
        self.path = path
        self.shape = (images, image_size, image_size, 3)
        self._pixels: Pixels | None = None

    def __getitem__(self, i: int) -> Pixels:
        return self.pixels[i]

    @property
    def pixels(self) -> Pixels:
        """All images, uint8 (I, S, S, 3), read-only."""
        if self._pixels is None:
            self._pixels = np.asarray(np.memmap(self.path, np.uint8, "r", shape=self.shape))
        return self._pixels

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pixels": None}  # a mapping would be pickled with all its pixels


def open_cache(
    index: DatasetIndex,
    image_size: int,
    train: bool,
    mode: FileMode,
    announce: Callable[[str], None] = lambda _: None,
) -> ImageCache:
    """The cache of a split, built if there is none that fits.

    Args:
        index: The split.
        image_size: S in px.
        train: Which interpolation, see ``decode.draw``.
        mode: ``ram``: in shared memory, removed when the process that opened it on this machine
            ends; ``disk``: in a folder beside the data, or in the user's cache folder where the
            data is read-only.
        announce: Is told where the file goes, how large it is and how much room there is, before it
            is built.

    Raises:
        InputError: There is too little room, or an image cannot be read.
    """
    cache = ImageCache(cache_path(index, image_size, train, mode), len(index), image_size)
    if mode == "ram" and int(os.environ.get("LOCAL_RANK", 0)) == 0:
        atexit.register(_remove, cache.path, os.getpid())
    size = int(np.prod(cache.shape))
    if not _is_whole(cache.path, size):
        make_folder(cache.path.parent)
        with _lock_file(cache.path.parent) as file:
            if take_lock(file):  # the first process builds, the others wait here
                # What killed builds have left.
                for part in cache.path.parent.glob(f"{_family(cache.path)}_*.part"):
                    part.unlink(missing_ok=True)
            if not _is_whole(cache.path, size):
                free = free_bytes(cache.path.parent, mode)
                _check_room(cache.path.parent, size, free, mode)
                announce(
                    f"caching {len(index):,} images at {image_size} px in {cache.path}: "
                    f"{size / 1e9:.2f} GB of {free / 1e9:.1f} GB free"
                )
                _build(cache, index, train, mode)
    _ = cache.pixels  # map it now: the mapping outlives the name
    return cache


def _is_whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _family(path: Path) -> str:
    """What the names of all caches of one split with one size and method begin with."""
    return path.name.rsplit("_", 1)[0]


def cache_path(index: DatasetIndex, image_size: int, train: bool, mode: FileMode) -> Path:
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
    return cache_folder(index, mode) / name


def cache_folder(index: DatasetIndex, mode: FileMode) -> Path:
    """Where the caches of a data set go."""
    if mode == "ram":
        shared = Path("/dev/shm")
        base = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
        return base / f"yolo_lightning_{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    return disk_folder(index.root)


def _check_room(folder: Path, size: int, free: int, mode: FileMode) -> None:
    if size > free:
        other = "disk or none" if mode == "ram" else "none"
        raise NoRoom(
            f"{folder}: the image cache needs {size / 1e9:.1f} GB but {free / 1e9:.1f} GB are free; make "
            f"room, reduce --data.image_size, or set --data.cache {other}"
        )


def _lock_file(folder: Path) -> IO[str]:
    """The open file that is locked while a cache is built."""
    try:
        return (folder / "lock").open("w")
    except OSError as error:
        raise NoRoom(
            f"{folder}: the cache cannot be made there ({error.strerror}); set --data.cache none"
        ) from None


def _build(cache: ImageCache, index: DatasetIndex, train: bool, mode: FileMode) -> None:
    # A name of its own: where the file system has no locks, two may build at once.
    part = cache.path.with_suffix(f".{platform.node()}.{os.getpid()}.part")
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
            path, (height, width) = index.path(i), index.sizes[i].tolist()
            draw(read_bytes(path), path, (height, width), image_size, train, pixels[i])

        console = Console()
        is_live = console.is_terminal or console.is_jupyter  # a log gets no bar
        with ThreadPoolExecutor(usable_cores()) as pool:
            filled = pool.map(fill, range(len(index)))
            for _ in track(
                filled,
                f"caching {index.split}",
                len(index),
                console=console,
                transient=True,
                disable=not is_live,
            ):
                pass
        pixels.flush()
        part.replace(cache.path)
    except OSError as error:
        raise NoRoom(
            f"{cache.path.parent}: the image cache cannot be written ({error.strerror}); make "
            f"room or set --data.cache none"
        ) from None
    finally:
        part.unlink(missing_ok=True)
    if mode == "disk":  # caches of the same split and settings whose images have changed since
        for stale in cache.path.parent.glob(f"{_family(cache.path)}_*.uint8"):
            if stale != cache.path:
                stale.unlink(missing_ok=True)


def _remove(path: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked worker
        path.unlink(missing_ok=True)
