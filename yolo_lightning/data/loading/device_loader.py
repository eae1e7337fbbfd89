"""Training loader without workers: the decoded training set lives on the device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from ..batch import Batch
from ..images.cache import ImageCache
from .dataset import DetectionDataset, collate
from .ordered import OrderedLoader
from .sampler import TrainSampler

_CHUNK_IMAGES = 256
"""Images copied to the device at once."""


class DeviceLoader(OrderedLoader):
    """Batches gathered on the device from all images of a cached set; equal to ``WorkerLoader``'s.

    On a CPU the images are the memory-mapped cache file: processes share its pages, which the system
    may take back when memory runs short.
    """

    def __init__(self, dataset: DetectionDataset, sampler: TrainSampler, device: torch.device) -> None:
        assert dataset.cache is not None
        super().__init__(dataset, sampler, device)
        self.pixels = pixels_on(device, dataset.cache)  # uint8 (I, S, S, 3)
        labels = collate([dataset.labels(i) for i in range(len(dataset))])
        self.labels = Batch(*(tensor.to(device) for tensor in labels))  # its images are empty

    def _batches(self) -> Iterator[Batch]:
        epoch, _ = self._begin()
        order = torch.tensor(self.sampler.order(epoch), dtype=torch.int64).to(self.device)
        for begin in range(0, len(order), self.batch_size):
            rows = order[begin : begin + self.batch_size]
            images = self.pixels.index_select(0, rows).permute(0, 3, 1, 2)  # (B, 3, S, S), channels last
            labels = Batch(*(tensor.index_select(0, rows) for tensor in self.labels))
            self._give()
            yield labels._replace(images=images)


def pixels_on(device: torch.device, cache: ImageCache) -> Tensor:
    """All images of a cache on a device, uint8 (I, S, S, 3)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the file is mapped read-only, and nobody writes to the tensor
        mapped = torch.from_numpy(cache.pixels)
    if device.type == "cpu":
        return mapped
    pixels = torch.empty(mapped.shape, dtype=torch.uint8, device=device)
    for begin in range(0, len(mapped), _CHUNK_IMAGES):
        pixels[begin : begin + _CHUNK_IMAGES] = mapped[begin : begin + _CHUNK_IMAGES].to(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # batches are gathered on another stream
    return pixels
