"""What the images of a user cost before they reach the device: read, decoded, loaded, copied."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import NamedTuple

import numpy as np
import torch

from ...data.batch import Batch
from ...data.images.decode import Pixels
from ...data.loading.choose import train_loader
from ...data.loading.dataset import DetectionDataset
from ...data.loading.ordered import OrderedLoader
from ...data.loading.sampler import TrainSampler
from ...data.loading.worker_loader import PREFETCH_BATCHES
from .sample import TrainingSample, forget

_COPY_BYTES = 256 << 20
_LEAST_IMAGES = 4


class ImageCost(NamedTuple):
    """Milliseconds an image, one after the other in one thread."""

    cold_read_ms: float
    """From the disk."""
    read_ms: float
    """Once the system may have kept the file in memory."""
    decode_ms: float
    """Decoded and letterboxed."""
    images: int
    """How many were measured."""


class LoaderRate(NamedTuple):
    """A loader with nobody computing beside it."""

    images_per_second: float
    read_fraction: float
    """Of the time in which it made batches, the part that went into reading files, 0..1."""


def measure_images(sample: TrainingSample, budget_s: float) -> ImageCost:
    """Read and decode images of a sample one by one, through the data set that training reads them with.

    Args:
        sample: the images.
        budget_s: when to stop; four images are measured in any case.
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
    """Nanoseconds of reading image i, and of the rest."""
    before = time.perf_counter_ns()
    _, read_ns = dataset.timed_sample(i, pixels)
    return read_ns, time.perf_counter_ns() - before - read_ns


def make_loader(
    dataset: DetectionDataset, batch_size: int, workers: int, device: torch.device, resident: bool
) -> OrderedLoader:
    """The loader that training would have; see ``data.loading.choose.train_loader``."""
    sampler = TrainSampler(dataset, batch_size)
    return train_loader(dataset, sampler, batch_size, workers, device, resident)


def endless(loader: OrderedLoader) -> Generator[Batch, None, None]:
    """Batches of one epoch after the other."""
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def batches_ahead(loader: OrderedLoader) -> int:
    """Batches that may lie ready when a loader is asked again after a while."""
    return loader.workers * PREFETCH_BATCHES


def batches_at_once(loader: OrderedLoader) -> int:
    """Timed are multiples of so many batches: workers that begin together end together, in bursts."""
    return max(1, loader.workers)


def measure_loader(
    loader: OrderedLoader, batch_size: int, device: torch.device, seconds: float
) -> LoaderRate:
    """Images a second of a loader by itself, once what it had made ahead is used up.

    Args:
        loader: gives batches on ``device``.
        batch_size: B.
        device: of the training.
        seconds: how long; two batches are measured in any case.
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
    """GB/s from page-locked memory to a CUDA device; None on others, which have nothing to copy."""
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
