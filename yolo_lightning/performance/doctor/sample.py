"""A part of the user's training images to measure with, and the same images as a cache would hold them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...data.annotations.index import DatasetIndex, IntArray
from ...data.batch import label_capacity
from ...data.cache_folder import available_memory
from ...data.images.cache import ImageCache
from ...data.images.decode import Pixels
from ...data.loading.dataset import DetectionDataset, Sample
from ...system.cores import usable_cores

MOST_IMAGES = 256
PAGE_CACHE_SHARE = 0.5
"""Of the available memory, what the files of a data set may take to stay in it from epoch to epoch."""


class TrainingSample:
    """Some images of a training split, drawn at random but always the same, with all their labels.

    Args:
        index: the split.
        image_size: S in px.
        most_labels: labels of the image of the whole stage that has most.
        images: how many to draw, at most.

    Attributes:
        index: of the images that were drawn.
        dataset: reads and decodes them.
        stays_in_memory: whether the files of the whole split stay in the page cache, so that they
            are read from the disk in the first epoch only.
    """

    def __init__(self, index: DatasetIndex, image_size: int, most_labels: int, images: int) -> None:
        generator = np.random.default_rng(0)
        count = min(images, len(index))
        self.index = part_of(index, np.sort(generator.choice(len(index), count, replace=False)))
        self.image_size = image_size
        self.capacity = label_capacity(most_labels)
        self.file_bytes = float(np.mean([self.index.path(i).stat().st_size for i in range(count)]))
        """Mean size of a file."""
        self.stays_in_memory = self.file_bytes * len(index) <= PAGE_CACHE_SHARE * available_memory()
        kind = DetectionDataset if self.stays_in_memory else ForgetfulDataset
        self.dataset = kind(self.index, image_size, self.capacity, train=True)

    def cached(self, cache: ImageCache) -> DetectionDataset:
        """The same images, taken from a cache."""
        return DetectionDataset(self.index, self.image_size, self.capacity, train=True, cache=cache)

    @contextmanager
    def memory_cache(self) -> Iterator[ImageCache]:
        """The images decoded, in a file in memory that is gone at the end."""
        shape = (len(self.index), self.image_size, self.image_size, 3)
        with tempfile.TemporaryDirectory(dir=_memory_folder(int(np.prod(shape)))) as folder:
            path = Path(folder) / "images.uint8"
            self._decode_into(np.memmap(path, np.uint8, "w+", shape=shape))
            yield ImageCache(path, *shape[:2])

    def _decode_into(self, pixels: Pixels) -> None:
        with ThreadPoolExecutor(usable_cores()) as pool:
            for _ in pool.map(lambda i: self.dataset.sample(i, pixels[i]), range(len(pixels))):
                pass


class ForgetfulDataset(DetectionDataset):
    """Reads every file from the disk, as happens where the data set is larger than the memory."""

    def timed_sample(self, i: int, image: Pixels) -> tuple[Sample, int]:
        """As :meth:`DetectionDataset.timed_sample`."""
        forget(self.index.path(i))
        return super().timed_sample(i, image)


def forget(path: Path) -> None:
    """Drop a file from the page cache; nothing happens where the system cannot."""
    if not hasattr(os, "posix_fadvise"):
        return
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)  # pages that are still to be written are not dropped
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def part_of(index: DatasetIndex, positions: IntArray) -> DatasetIndex:
    """Some of the images of an index, in this order.

    Args:
        index: of I images.
        positions: int64 (n,), 0 .. I-1.
    """
    paths = [os.fsencode(index.path(i)) for i in positions.tolist()]
    rows = [np.arange(index.rows(i).start, index.rows(i).stop) for i in positions.tolist()]
    taken = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    return replace(
        index,
        path_bytes=b"".join(paths),
        path_offsets=np.cumsum([0, *map(len, paths)], dtype=np.int64),
        image_ids=index.image_ids[positions],
        sizes=index.sizes[positions],
        offsets=np.cumsum([0, *map(len, rows)], dtype=np.int64),
        classes=index.classes[taken],
        boxes=index.boxes[taken],
        areas=index.areas[taken],
        crowd=index.crowd[taken],
        trainable=index.trainable[taken],
    )


def _memory_folder(size: int) -> str | None:
    """A folder in memory with twice the room that is needed; None stands for the usual one."""
    folder = Path("/dev/shm")
    if not os.access(folder, os.W_OK):
        return None
    status = os.statvfs(folder)
    return str(folder) if status.f_bavail * status.f_frsize >= 2 * size else None
