"""Loaders of the data module: one for training, one for evaluation and prediction."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from .dataset import DetectionDataset, Sample, collate
from .device_loader import DeviceLoader
from .ordered import OrderedLoader
from .sampler import SameShapeBatchSampler, TrainSampler
from .worker_loader import WorkerLoader, prepare_worker


def train_loader(
    dataset: DetectionDataset,
    sampler: TrainSampler,
    batch_size: int,
    workers: int,
    device: torch.device,
    on_device: bool,
    cores: int | None = None,
) -> OrderedLoader:
    """Batches of training images on a device.

    Args:
        dataset: The images.
        sampler: Their order.
        batch_size: B.
        workers: Processes that make batches.
        device: Device of the training.
        on_device: Keep all images of the data set's cache there.
        cores: Threads if there are no workers; all usable cores if left out.
    """
    if on_device:
        return DeviceLoader(dataset, sampler, batch_size, device)
    return WorkerLoader(dataset, sampler, batch_size, workers, device, cores)


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
