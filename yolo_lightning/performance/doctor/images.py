"""A sample of the user's training images, and the cost of reading, decoding, loading and copying them."""

from __future__ import annotations

import itertools
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
from ...data.image_size import Size
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
_LEAST_IMAGES = 4


class ImageCost(NamedTuple):
    """Milliseconds an image, one after the other in one thread."""

    cold_read_ms: float  # time to read a file from the disk
    read_ms: float  # time to read a file that the system may have kept in memory
    decode_ms: float  # time to decode and letterbox it
    images: int  # number measured


class LoaderRate(NamedTuple):
    """Speed of a loader while nothing computes beside it."""

    images_per_second: float
    read_fraction: float  # part of the loader's time that went into reading files, 0..1; NaN: unknown


class TrainingSample:
    """Some images of a training split, drawn at random from a fixed seed, with all their labels.

    If the files of the whole split stay in the page cache (``stays_in_memory``), only the first epoch reads
    them from the disk.

    Args:
        index: the split.
        image_size: height and width in px.
        most_labels: most labels of an image in the whole stage.
        images: most images to draw.
    """

    def __init__(self, index: DatasetIndex, image_size: Size, most_labels: int, images: int) -> None:
        count = min(images, len(index))
        drawn = np.random.default_rng(0).choice(len(index), count, replace=False)
        self.index = part_of(index, np.sort(drawn))
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
        with tempfile.TemporaryDirectory() as folder:  # new files stay in the page cache
            cache = ImageCache(Path(folder) / "images.uint8", len(self.index), self.image_size)
            cache.path.write_bytes(b"")
            os.truncate(cache.path, cache.bytes)
            cache.map("r+")
            pixels = cache.pixels
            with ThreadPoolExecutor(usable_cores()) as pool:
                for _ in pool.map(lambda i: self.dataset.timed_sample(i, pixels[i]), range(len(pixels))):
                    pass
            yield cache


class ForgetfulDataset(DetectionDataset):
    """Reads every file from the disk, as training does if the data set is larger than the memory."""

    def timed_sample(self, i: int, image: Pixels) -> tuple[Sample, int]:
        forget(self.index.path(i))
        return super().timed_sample(i, image)


def forget(path: Path) -> None:
    """Drop a file from the page cache; systems without ``posix_fadvise`` keep it."""
    with suppress(OSError, AttributeError), path.open("rb") as file:
        os.fsync(file.fileno())  # pages that are still to be written are not dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def part_of(index: DatasetIndex, positions: IntArray) -> DatasetIndex:
    """Take the images at ``positions``, int64 (n,), of an index, in that order."""
    paths = [os.fsencode(index.path(i)) for i in positions.tolist()]
    rows = [range(len(index.classes))[index.rows(i)] for i in positions.tolist()]
    taken = np.fromiter(itertools.chain(*rows), np.int64)
    columns = ("classes", "boxes", "areas", "crowd", "trainable")
    return replace(
        index,
        path_bytes=b"".join(paths),
        path_offsets=np.cumsum([0, *map(len, paths)], dtype=np.int64),
        image_ids=index.image_ids[positions],
        sizes=index.sizes[positions],
        offsets=np.cumsum([0, *map(len, rows)], dtype=np.int64),
        **{name: getattr(index, name)[taken] for name in columns},
    )


def measure_images(sample: TrainingSample, budget_s: float) -> ImageCost:
    """Read and decode images of a sample, at least four, one by one with the data set of the training."""
    dataset = DetectionDataset(sample.index, sample.image_size, sample.capacity, train=True)
    pixels = np.empty((*sample.image_size, 3), np.uint8)
    ns: list[tuple[int, int, int]] = []  # of an image: cold read, read, decoding
    end = time.perf_counter() + budget_s
    for i in range(len(dataset)):
        forget(sample.index.path(i))
        _, cold_ns = dataset.timed_sample(i, pixels)
        before = time.perf_counter_ns()
        _, read_ns = dataset.timed_sample(i, pixels)
        ns.append((cold_ns, read_ns, time.perf_counter_ns() - before - read_ns))
        if time.perf_counter() > end and i + 1 >= _LEAST_IMAGES:
            break
    cold_ms, read_ms, decode_ms = (np.mean(ns, axis=0) / 1e6).tolist()
    return ImageCost(cold_ms, read_ms, decode_ms, len(ns))


def endless(loader: OrderedLoader) -> Generator[Batch, None, None]:
    """Give the batches of one epoch after the other."""
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)
        yield from loader


def batches_ahead(loader: OrderedLoader) -> int:
    """Count the batches that a loader may have ready after a pause."""
    return loader.workers * PREFETCH_BATCHES


def measure_loader(loader: OrderedLoader, seconds: float) -> LoaderRate:
    """Measure a loader by itself, after the batches that it made ahead; at least two batches."""
    batches, burst = endless(loader), max(1, loader.workers)  # workers that begin together end together
    for _ in range(burst + batches_ahead(loader)):
        next(batches)
    count, began = 0, time.perf_counter()
    while count < 2 or count % burst or time.perf_counter() - began < seconds:
        next(batches)
        count += 1
    if loader.device.type == "cuda":
        torch.cuda.synchronize(loader.device)
    rate = LoaderRate(count * loader.batch_size / (time.perf_counter() - began), loader.read_fraction)
    batches.close()
    return rate


def measure_copy(device: torch.device) -> float | None:
    """Measure GB/s from page-locked memory to a CUDA device; None on a CPU, which has nothing to copy."""
    if device.type != "cuda":
        return None
    source = torch.empty(256 << 20, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source, device=device)
    target.copy_(source)
    start, repetitions = time.perf_counter(), 4
    for _ in range(repetitions):
        target.copy_(source)  # blocks
    return repetitions * source.nbytes / 1e9 / (time.perf_counter() - start)
