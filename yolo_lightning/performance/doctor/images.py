"""A sample of the user's training images, and the cost of reading, decoding, loading and copying them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ...data.annotations.index import DatasetIndex, IntArray
from ...data.batch import Batch, label_capacity
from ...data.cache_folder import available_memory
from ...data.images.cache import ImageCache
from ...data.images.decode import Pixels
from ...data.loading.dataset import DetectionDataset, Sample
from ...data.loading.ordered import DeviceLoader, OrderedLoader
from ...data.loading.sampler import TrainSampler
from ...data.loading.worker_loader import PREFETCH_BATCHES, WorkerLoader
from ...system.cores import usable_cores

MOST_IMAGES = 256
PAGE_CACHE_SHARE = 0.5
"""Part of the available memory that the files of a data set may take to stay in it from epoch to epoch."""
_COPY_BYTES = 256 << 20
_LEAST_IMAGES = 4


class ImageCost(NamedTuple):
    """Milliseconds an image, one after the other in one thread."""

    cold_read_ms: float
    """Time to read a file from the disk."""
    read_ms: float
    """Time to read a file that the system may have kept in memory."""
    decode_ms: float
    """Time to decode and letterbox it."""
    images: int
    """Number of images that were measured."""


class LoaderRate(NamedTuple):
    """Speed of a loader while nothing computes beside it."""

    images_per_second: float
    read_fraction: float
    """Part of the loader's time that went into reading files, 0..1; NaN: unknown."""


class TrainingSample:
    """Some images of a training split, drawn at random from a fixed seed, with all their labels.

    Args:
        index: the split.
        image_size: S in px.
        most_labels: most labels of an image in the whole stage.
        images: most images to draw.

    Attributes:
        index: index of the drawn images.
        dataset: reads and decodes them.
        stays_in_memory: true if the files of the whole split stay in the page cache, so that only the first
            epoch reads them from the disk.
    """

    def __init__(self, index: DatasetIndex, image_size: int, most_labels: int, images: int) -> None:
        generator = np.random.default_rng(0)
        count = min(images, len(index))
        self.index = part_of(index, np.sort(generator.choice(len(index), count, replace=False)))
        self.image_size = image_size
        self.capacity = label_capacity(most_labels)
        file_bytes = float(np.mean([self.index.path(i).stat().st_size for i in range(count)]))
        self.stays_in_memory = file_bytes * len(index) <= PAGE_CACHE_SHARE * available_memory()
        kind = DetectionDataset if self.stays_in_memory else ForgetfulDataset
        self.dataset = kind(self.index, image_size, self.capacity, train=True)

    def loader(
        self,
        batch_size: int,
        workers: int,
        device: torch.device,
        cache: ImageCache | None = None,
        resident: bool = False,
    ) -> OrderedLoader:
        """Build the loader that training would have."""
        dataset = self.dataset
        if cache is not None:
            dataset = DetectionDataset(self.index, self.image_size, self.capacity, train=True, cache=cache)
        sampler = TrainSampler(dataset, batch_size)
        if resident:
            return DeviceLoader(dataset, sampler, device)
        return WorkerLoader(dataset, sampler, workers, device)

    @contextmanager
    def memory_cache(self) -> Iterator[ImageCache]:
        """Decode the images into a file, which is removed at the end."""
        shape = (len(self.index), self.image_size, self.image_size, 3)
        with tempfile.TemporaryDirectory() as folder:  # new files stay in the page cache
            path = Path(folder) / "images.uint8"
            self._decode_into(np.memmap(path, np.uint8, "w+", shape=shape))
            yield ImageCache(path, *shape[:2])

    def _decode_into(self, pixels: Pixels) -> None:
        with ThreadPoolExecutor(usable_cores()) as pool:
            for _ in pool.map(lambda i: self.dataset.timed_sample(i, pixels[i]), range(len(pixels))):
                pass


class ForgetfulDataset(DetectionDataset):
    """Reads every file from the disk, as training does if the data set is larger than the memory."""

    def timed_sample(self, i: int, image: Pixels) -> tuple[Sample, int]:
        forget(self.index.path(i))
        return super().timed_sample(i, image)


def forget(path: Path) -> None:
    """Drop a file from the page cache; systems without ``posix_fadvise`` keep it."""
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
    """Take some images of an index, in the given order.

    Args:
        index: index of I images.
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


def measure_images(sample: TrainingSample, budget_s: float) -> ImageCost:
    """Read and decode images of a sample one by one, through the data set that training reads them with.

    Args:
        sample: the images.
        budget_s: time limit; at least four images are measured.
    """
    dataset = DetectionDataset(sample.index, sample.image_size, sample.capacity, train=True)
    pixels = np.empty((sample.image_size, sample.image_size, 3), np.uint8)
    cold, warm, decoding = [], [], []
    end = time.perf_counter() + budget_s
    for i in range(len(dataset)):
        forget(sample.index.path(i))
        read_ns, _ = _load_one(dataset, i, pixels)
        cold.append(read_ns)
        read_ns, other_ns = _load_one(dataset, i, pixels)
        warm.append(read_ns)
        decoding.append(other_ns)
        if time.perf_counter() > end and i + 1 >= _LEAST_IMAGES:
            break
    cold_ms, warm_ms, decode_ms = (float(np.mean(values)) / 1e6 for values in (cold, warm, decoding))
    return ImageCost(cold_ms, warm_ms, decode_ms, len(cold))


def _load_one(dataset: DetectionDataset, i: int, pixels: Pixels) -> tuple[int, int]:
    """Time of reading image i, and of the rest, in ns."""
    before = time.perf_counter_ns()
    _, read_ns = dataset.timed_sample(i, pixels)
    return read_ns, time.perf_counter_ns() - before - read_ns


def endless(loader: OrderedLoader) -> Generator[Batch, None, None]:
    """Give the batches of one epoch after the other."""
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def batches_ahead(loader: OrderedLoader) -> int:
    """Count the batches that a loader may have ready after a pause."""
    return loader.workers * PREFETCH_BATCHES


def batches_at_once(loader: OrderedLoader) -> int:
    """Count the batches of a burst: workers that begin together end together."""
    return max(1, loader.workers)


def measure_loader(
    loader: OrderedLoader, batch_size: int, device: torch.device, seconds: float
) -> LoaderRate:
    """Measure a loader by itself, after the batches that it made ahead.

    Args:
        loader: gives batches on ``device``.
        batch_size: B.
        device: device of the training.
        seconds: duration; at least two batches are measured.
    """
    batches = endless(loader)
    for _ in range(batches_at_once(loader) + batches_ahead(loader)):
        next(batches)
    count, began = 0, time.perf_counter()
    while count < 2 or count % batches_at_once(loader) or time.perf_counter() - began < seconds:
        next(batches)
        count += 1
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    rate = count * batch_size / (time.perf_counter() - began)
    read_fraction = loader.read_fraction
    batches.close()
    return LoaderRate(rate, read_fraction)


def measure_copy(device: torch.device) -> float | None:
    """Measure GB/s from page-locked memory to a CUDA device; None on a CPU, which has nothing to copy."""
    if device.type != "cuda":
        return None
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source, device=device)
    target.copy_(source, non_blocking=True)
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    for _ in range(4):
        target.copy_(source, non_blocking=True)
    after.record()
    torch.cuda.synchronize(device)
    return 4 * _COPY_BYTES / 1e6 / before.elapsed_time(after)
