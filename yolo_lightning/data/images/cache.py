"""Cache of decoded, letterboxed images: one memory-mapped file that all workers and ranks share.

The file's name is a digest of everything its pixels depend on, so a changed image means another name. It
is written under a temporary name and renamed when complete, so a file with its final name can be trusted.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from ...errors import InputError
from ...system.cores import usable_cores
from ...system.files import remove_leftovers, whole_file
from ..annotations.index import DatasetIndex
from ..annotations.reader import stamp
from ..cache_folder import FileMode, NoRoom, cache_folder, free_bytes, lock_folder
from .decode import Pixels, draw, read_bytes

_FORMAT = 2  # change it with the meaning of the pixels, or old files would be used


class ImageCache:
    """Image i as uint8 RGB (S, S, 3); the file is mapped on first use in each process."""

    def __init__(self, path: Path, images: int, image_size: int) -> None:
        self.path = path
        self.shape = (images, image_size, image_size, 3)
        self._pixels: Pixels | None = None

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
    """Open the cache of a split; build it first if none fits.

    Args:
        train: Interpolation, see ``decode.draw``.
        mode: ``ram``: in shared memory, removed when the process that opened it on this machine ends;
            ``disk``: beside the data, or in the user's cache folder if the data is read-only.
        announce: Called before the build with one line: the file, its size, and the free space.

    Raises:
        InputError: There is too little room, or an image cannot be read.
    """
    cache = ImageCache(cache_path(index, image_size, train, mode), len(index), image_size)
    folder = cache.path.parent
    if mode == "ram" and int(os.environ.get("LOCAL_RANK", 0)) == 0:
        atexit.register(_remove, cache.path, os.getpid())
    size = int(np.prod(cache.shape))
    if not _is_complete(cache.path, size):
        with lock_folder(folder, "lock"):  # the first process builds, the others wait here
            if not _is_complete(cache.path, size):
                remove_leftovers(folder)
                free = free_bytes(folder, mode)
                if size > free:
                    other = "disk or none" if mode == "ram" else "none"
                    raise NoRoom(
                        f"{folder}: the image cache needs {size / 1e9:.1f} GB but {free / 1e9:.1f} GB are "
                        f"free; make room, reduce --data.image_size, or set --data.cache {other}"
                    )
                announce(
                    f"caching {len(index):,} images at {image_size} px in {cache.path}: "
                    f"{size / 1e9:.2f} GB of {free / 1e9:.1f} GB free"
                )
                _build(cache, index, train)
                if mode == "disk":  # the split may have a cache from before its images changed
                    for outdated in folder.glob(f"{cache.path.name.rsplit('_', 1)[0]}_*.uint8"):
                        if outdated != cache.path:
                            outdated.unlink(missing_ok=True)
    _ = cache.pixels  # map it now: the mapping outlives the name
    return cache


def _is_complete(path: Path, size: int) -> bool:
    """True if the file is the user's, and of this size; a link may lead anywhere."""
    if not path.is_file() or path.is_symlink() or path.parent.is_symlink():
        return False
    return (path.stat().st_size, path.stat().st_uid) == (size, os.getuid())


def cache_path(index: DatasetIndex, image_size: int, train: bool, mode: FileMode) -> Path:
    """The cache file: named after paths, sizes and times of the images, and the settings."""
    method = "linear" if train else "area"
    digest = hashlib.sha256(repr((_FORMAT, image_size, method)).encode())
    for i in range(len(index)):
        path = index.path(i)
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"{path}: the image cannot be read ({error.strerror}); check the path") from None
        # Nobody can set st_ctime, so that nobody can name a forged file in advance.
        digest.update(repr((str(path), stamp(status), index.sizes[i].tolist())).encode())
    data_set = hashlib.sha256(str(index.source).encode()).hexdigest()[:8]
    name = f"{data_set}_{index.split}_{image_size}px_{method}_{digest.hexdigest()[:16]}.uint8"
    return cache_folder(index.root, mode) / name


def _build(cache: ImageCache, index: DatasetIndex, train: bool) -> None:
    """Decode all images into the file of a cache."""
    size, image_size = int(np.prod(cache.shape)), cache.shape[1]
    console = Console()
    is_live = sys.stdout.isatty() or console.is_jupyter  # no bar in a log, even if variables ask for colour
    try:
        with whole_file(cache.path) as temporary:
            with temporary.open("xb") as file:
                if hasattr(os, "posix_fallocate"):  # running out of room later would be a bus error
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
            pixels = np.memmap(temporary, np.uint8, "r+", shape=cache.shape)

            def fill(i: int) -> None:
                path, (height, width) = index.path(i), index.sizes[i].tolist()
                draw(read_bytes(path), path, (height, width), image_size, train, pixels[i])

            with ThreadPoolExecutor(usable_cores()) as pool:
                for _ in track(
                    pool.map(fill, range(len(index))),
                    f"caching {index.split}",
                    len(index),
                    console=console,
                    transient=True,
                    disable=not is_live,
                ):
                    pass
    except OSError as error:
        raise NoRoom(
            f"{cache.path.parent}: the image cache cannot be written ({error.strerror}); make "
            f"room or set --data.cache none"
        ) from None


def _remove(path: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked worker
        path.unlink(missing_ok=True)
