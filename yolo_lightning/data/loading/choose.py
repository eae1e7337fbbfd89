"""Which loader a data set gets."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from .dataset import DetectionDataset, Sample, collate
from .device_feed import BatchLoader, DeviceFeed
from .device_loader import ResidentLoader
from .sampler import SameShapeBatchSampler, TrainSampler
from .worker_loader import TrainLoader, prepare_worker


def train_loader(
    dataset: DetectionDataset,
    sampler: TrainSampler,
    batch_size: int,
    workers: int,
    device: torch.device,
    resident: bool,
    cores: int | None = None,
) -> BatchLoader:
    """Batches of training images on a device: resident ones, or those that workers make.

    Args:
        dataset: The images.
        sampler: Their order.
        batch_size: B.
        workers: Processes that make batches.
        device: Of the training.
        cores: For threads, where there are no workers; all that are usable if left out.
        resident: Whether the images of the data set's cache are to live there.
    """
    if resident:
        images = ResidentLoader(dataset, sampler, batch_size, device)
        return DeviceFeed(images, device) if device.type == "cuda" else images
    loader = TrainLoader(dataset, sampler, batch_size, workers, cores)
    return DeviceFeed(loader, device, loader.slots) if device.type == "cuda" else loader


def evaluation_loader(
    dataset: Dataset[Sample], batches: SameShapeBatchSampler, workers: int, pin_memory: bool
) -> DataLoader[Any]:
    """Batches of rectangles, made by workers that stay from one validation to the next."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=prepare_worker,
        persistent_workers=workers > 0,
    )
