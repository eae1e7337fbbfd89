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
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import track

from ...errors import InputError
from ...system.cores import usable_cores
from ...system.files import remove_leftovers, whole_file
from ..annotations.index import DatasetIndex
from ..annotations.reader import stamp
from ..cache_folder import FileMode, NoRoom, cache_folder, free_bytes, lock_folder
from ..image_size import Size, as_option, describe
from .decode import Pixels, draw, read_bytes
from .faults import FAILED, UNENDED, Faults
from .truncation import has_end
from .waiting import POLL_S, wait

_FORMAT = 3  # change it with the meaning of the pixels, or old files would be used


class ImageCache:
    """Image i as uint8 RGB (H, W, 3); the file is mapped on first use in each process.

    Behind the pixels, the file has a mark for each image, of ``faults``.
    """

    def __init__(self, path: Path, images: int, image_size: Size) -> None:
        self.path = path
        self.shape = (images, *image_size, 3)
        self.bytes = int(np.prod(self.shape)) + images
        self._mapped: Pixels | None = None

    def map(self, mode: Literal["r", "r+"] = "r") -> None:
        """Map the file."""
        self._mapped = np.asarray(np.memmap(self.path, np.uint8, mode, shape=(self.bytes,)))

    @property
    def pixels(self) -> Pixels:
        """All images, uint8 (I, H, W, 3), read-only."""
        return self._all[: -self.shape[0]].reshape(self.shape)

    @property
    def marks(self) -> Pixels:
        """Mark of each image, uint8 (I,), read-only."""
        return self._all[-self.shape[0] :]

    @property
    def _all(self) -> Pixels:
        if self._mapped is None:
            self.map()
        assert self._mapped is not None
        return self._mapped

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": None}  # a mapping would be pickled with all its pixels


def open_cache(
    index: DatasetIndex,
    image_size: Size,
    train: bool,
    mode: FileMode,
    announce: Callable[[str], None] = lambda _: None,
    max_skipped: float = 0.0,
) -> ImageCache:
    """Open the cache of a split; build it first if none fits.

    Args:
        train: Interpolation, see ``decode.draw``.
        mode: ``ram``: in shared memory, removed when the process that opened it on this machine ends;
            ``disk``: beside the data, or in the user's cache folder if the data is read-only.
        announce: Called before the build with one line: the file, its size, and the free space.
        max_skipped: Share of the images that may fail, see ``Faults``.

    Raises:
        InputError: There is too little room, or too many images cannot be read.
    """
    cache = ImageCache(cache_path(index, image_size, train, mode), len(index), image_size)
    folder = cache.path.parent
    if mode == "ram" and int(os.environ.get("LOCAL_RANK", 0)) == 0:
        atexit.register(_remove, cache.path, os.getpid())
    size = cache.bytes
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
                    f"caching {len(index):,} images at {describe(image_size)} in {cache.path}: "
                    f"{size / 1e9:.2f} GB of {free / 1e9:.1f} GB free"
                )
                faults = Faults(len(index), index.path, index.split, max_skipped, announce=announce)
                _build(cache, index, train, faults)
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


def cache_path(index: DatasetIndex, image_size: Size, train: bool, mode: FileMode) -> Path:
    """The cache file: named after paths, sizes and times of the images, and the settings."""
    method = "linear" if train else "area"
    digest = hashlib.sha256(repr((_FORMAT, as_option(image_size), method)).encode())
    for i in range(len(index)):
        path = index.path(i)
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"{path}: the image cannot be read ({error.strerror}); check the path") from None
        # Nobody can set st_ctime, so that nobody can name a forged file in advance.
        digest.update(repr((str(path), stamp(status), index.sizes[i].tolist())).encode())
    data_set = hashlib.sha256(str(index.source).encode()).hexdigest()[:8]
    sides = "x".join(map(str, dict.fromkeys(image_size)))  # of a square once
    name = f"{data_set}_{index.split}_{sides}px_{method}_{digest.hexdigest()[:16]}.uint8"
    return cache_folder(index.root, mode) / name


def _build(cache: ImageCache, index: DatasetIndex, train: bool, faults: Faults) -> None:
    """Decode all images into the file of a cache."""
    images, height_px, width_px, _ = cache.shape
    image_size = height_px, width_px
    console = Console()
    is_live = sys.stdout.isatty() or console.is_jupyter  # no bar in a log, even if variables ask for colour
    try:
        with whole_file(cache.path) as temporary:
            with temporary.open("xb") as file:
                if hasattr(os, "posix_fallocate"):  # running out of room later would be a bus error
                    os.posix_fallocate(file.fileno(), 0, cache.bytes)
                else:
                    file.truncate(cache.bytes)
            being_made = ImageCache(temporary, images, image_size)
            being_made.map("r+")
            pixels, marks = being_made.pixels, being_made.marks

            def fill(i: int) -> None:
                path, (height, width) = index.path(i), index.sizes[i].tolist()
                try:
                    with faults.reading(i):
                        data = read_bytes(path)
                        draw(data, path, (height, width), image_size, train, pixels[i])
                    marks[i] = 0 if has_end(data) else UNENDED
                except InputError as error:
                    faults.add(i, error)
                    marks[i] = FAILED

            with ThreadPool(usable_cores()) as pool:
                filled = pool.imap(fill, range(images))
                for _ in track(
                    range(images),
                    f"caching {index.split}",
                    console=console,
                    transient=True,
                    disable=not is_live,
                ):
                    wait(partial(filled.next, POLL_S), faults)
    except OSError as error:
        raise NoRoom(
            f"{cache.path.parent}: the image cache cannot be written ({error.strerror}); make "
            f"room or set --data.cache none"
        ) from None


def _remove(path: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked worker
        path.unlink(missing_ok=True)
