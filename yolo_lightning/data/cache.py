"""Decoded, letterboxed images in one memory-mapped file that all workers and ranks share.

A file is named after everything its pixels depend on, written under another name and renamed when
it is complete: what has its final name can be trusted, and a changed image means another name.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from ..display import counting
from ..errors import InputError
from .cores import free_in_group, usable_cores
from .decode import Pixels, draw, read_bytes
from .index import DatasetIndex
from .locks import take_lock

FileMode = Literal["ram", "disk"]

FOLDER = ".yolo_lightning_cache"
_FORMAT = 2  # a change of what the pixels are must change this, or old files would be used


class NoRoom(InputError):
    """A cache cannot be made where it should go; the images themselves may be fine."""


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


def disk_folder(root: Path) -> Path:
    """Where files about a data set go: beside it, or to the user's cache folder where it is read-only.

    ``YOLO_LIGHTNING_CACHE`` in the environment names another folder, such as a disk of each node's own;
    variables in it, such as ``$TMPDIR``, are those of the node.

    Raises:
        InputError: One of these variables is not set.
    """
    if named := os.environ.get("YOLO_LIGHTNING_CACHE"):
        expanded = os.path.expandvars(named)
        if unset := re.search(r"\$(\w+|\{\w+\})", expanded):
            raise InputError(
                f"YOLO_LIGHTNING_CACHE is {named}, but {unset[0]} is not set on {platform.node()}; name "
                "another folder"
            )
        return Path(expanded).expanduser().absolute()
    # An administrator may write to a folder that is marked read-only, but that is not what was meant.
    if os.access(root, os.W_OK) and root.stat().st_mode & stat.S_IWUSR:
        return root / FOLDER
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "yolo_lightning"


def make_folder(folder: Path) -> None:
    """Make the folder of a cache.

    Raises:
        InputError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoRoom(
            f"{folder}: the cache cannot be made there ({error.strerror}); set --data.cache none"
        ) from None


def free_bytes(folder: Path, mode: FileMode) -> int:
    """Room for a cache in a folder that may still have to be made."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    return min(free, available_memory()) if mode == "ram" else free


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


def available_memory() -> int:
    """Bytes that can be taken without swapping; without a limit where Linux does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 1 << 62
    free = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return min(next(free, 1 << 62), free_in_group())


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

        bar = counting(f"caching {index.split}", len(index))  # on a terminal; nothing in a log
        with bar as advance, ThreadPoolExecutor(usable_cores()) as pool:
            for _ in pool.map(fill, range(len(index))):
                advance()
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
