"""Training loaders: the base class, which keeps the place in the order, and the one without workers."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...system.streams import hand_over, side_stream
from ..annotations.findings import count_images
from ..annotations.index import DatasetIndex
from ..batch import Batch, HostLabels, move, on_canvas
from ..images.cache import ImageCache
from ..images.choose_cache import CacheMode
from ..images.faults import FAILED, stand_ins
from .dataset import DetectionDataset, collate
from .sampler import TrainSampler

_CHUNK_IMAGES = 256  # images copied to the device at once


class Loading(NamedTuple):
    """Facts of a training loader."""

    cache: CacheMode  # the cache in use
    workers: int  # worker processes of the loader; 0 where the main process loads
    cores: int  # CPU cores that this process may use: affinity, cgroup quota and Slurm's allocation
    read_fraction: float  # part of the loader's own time that went into reading files, 0..1; NaN: unknown
    fitting_cache: CacheMode | None  # the fastest cache that the training set fits in; None if there is none


class OrderedLoader(ABC):
    """Full batches on a device, in the order of a sampler, whose epoch Lightning sets; resumes in an epoch.

    It is what Lightning calls a stateful loader: every checkpoint stores its ``state_dict``, which a run
    that resumes within an epoch loads before the first batch.
    """

    workers = 0
    """Processes that make batches."""

    def __init__(self, dataset: DetectionDataset, sampler: TrainSampler, device: torch.device) -> None:
        self._dataset = dataset  # private: Lightning takes a loader with ``dataset`` for a torch DataLoader
        self.sampler = sampler
        self.batch_size = sampler.batch_size
        self.device = device
        self._place = (0, 0)  # epoch, and the number of its images that all ranks together have been given

    @property
    def read_fraction(self) -> float:
        """Part of the loader's time that goes into reading files, 0..1; NaN if nothing is known yet."""
        return 0.0

    def __len__(self) -> int:
        return len(self.sampler) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        batches = self._batches()
        shapes = None if self.sampler.canvases is None else self._shapes()
        if self.device.type == "cuda":
            return copy_ahead(batches, self.device, shapes)
        return batches if shapes is None else map(_cut, batches, shapes)

    def _shapes(self) -> Iterator[tuple[int, int]]:
        """Height and width of each batch; asks the sampler at the first batch, when its epoch is known."""
        yield from self.sampler.shapes(self.sampler.epoch)

    @abstractmethod
    def _batches(self) -> Iterator[Batch]:
        """The batches of the sampler's epoch, in host memory or on the device."""

    def close(self) -> None:  # noqa: B027  # only WorkerLoader has workers
        """Stop the workers."""

    def _begin(self) -> tuple[int, int]:
        """Begin the sampler's epoch; returns the epoch and how many batches it has here."""
        epoch = self.sampler.epoch
        self._place = epoch, self.sampler.seen(epoch)
        return epoch, len(self) - self.sampler.begins_at(epoch)

    def _give(self) -> None:
        """Count a batch that is about to be handed out, and report images that have failed."""
        self._dataset.report()
        epoch, seen = self._place
        self._place = epoch, seen + self.batch_size * self.sampler.num_replicas

    def state_dict(self) -> dict[str, Any]:
        """The epoch, how many of its images all ranks together have been given, and the size of the data."""
        epoch, seen = self._place
        return {"epoch": epoch, "seen": seen, "images": len(self._dataset), "left_out": self._left_out}

    @property
    def _left_out(self) -> int:
        """Images that are left out of the index for their errors."""
        return count_images([finding for finding in self._dataset.index.findings if finding.is_error])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Begin the stored epoch after the images seen, for the present number of ranks.

        If other images are left out than before, it begins after the same share of them.

        Raises:
            InputError: The data set has another number of images.
        """
        images, now = state_dict["images"], len(self._dataset)
        if images != now:
            if images + state_dict.get("left_out", 0) != now + self._left_out:
                raise InputError(
                    f"the checkpoint was written within an epoch of {images} images, but the data "
                    f"has {now}; resume with the data set that the run was started on"
                )
            self._dataset.faults.announce(
                f"the resumed epoch had {images} images, and now has {now}, because others are left out: "
                "some of them come twice in it, or not at all"
            )
        seen = min(state_dict["seen"], images) * now // images  # the last batch may have been filled up
        self.sampler.resume(state_dict["epoch"], seen)
        self._place = state_dict["epoch"], seen  # until the first batch, if there is one

    def earlier(self, batches: int) -> Iterator[Batch]:
        """The last ``batches`` batches before the place where a resumed epoch begins, in host memory."""
        epoch = self.sampler.epoch
        order = self.sampler.order(epoch, before=batches)
        order = order[: len(order) - len(self.sampler.order(epoch))]
        for begin in range(0, len(order), self.batch_size):
            rows = order[begin : begin + self.batch_size]
            canvases = np.empty((len(rows), *self._dataset.image_size, 3), np.uint8)
            samples = [
                self._dataset.training_sample(i, epoch, canvas)
                for i, canvas in zip(rows, canvases, strict=True)
            ]
            yield collate([sample for sample, _ in samples])


class DeviceLoader(OrderedLoader):
    """Batches gathered on the device from all images of a cached set; equal to ``WorkerLoader``'s.

    On a CPU the images are the memory-mapped cache file: processes share its pages, which the system
    may take back when memory runs short.
    """

    def __init__(self, dataset: DetectionDataset, sampler: TrainSampler, device: torch.device) -> None:
        assert dataset.cache is not None
        super().__init__(dataset, sampler, device)
        self.pixels = pixels_on(device, dataset.cache)  # uint8 (I, H, W, 3)
        images, has_failed = len(dataset), dataset.cache.marks == FAILED
        self._places = torch.arange(images)  # (I,), the image itself or the one in its place
        for i in np.flatnonzero(has_failed).tolist():
            self._places[i] = next(place for place in stand_ins(i, images) if not has_failed[place])
        labels = collate([dataset.labels(i) for i in range(images)])
        self._counts = labels.count
        self.labels = labels.map(lambda tensor: tensor.to(device))  # its images are empty

    def _batches(self) -> Iterator[Batch]:
        epoch, _ = self._begin()
        drawn = torch.tensor(self.sampler.order(epoch), dtype=torch.int64)
        images = len(self._places)
        places, repeats = self._places[drawn % images], drawn // images * images
        known = HostLabels(places + repeats, self._counts[places])
        order, index = places.to(self.device), known.index.to(self.device)
        for begin in range(0, len(order), self.batch_size):
            part = slice(begin, begin + self.batch_size)
            rows = order[part]
            pixels = self.pixels.index_select(0, rows).permute(0, 3, 1, 2)  # (B, 3, H, W), channels last
            labels = self.labels.map(partial(torch.index_select, dim=0, index=rows))
            self._give()
            on_host = HostLabels(known.index[part], known.count[part])
            yield labels._replace(images=pixels, index=index[part], on_host=on_host)


def pixels_on(device: torch.device, cache: ImageCache) -> Tensor:
    """All images of a cache on a device, uint8 (I, H, W, 3)."""
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


def _cut(batch: Batch, shape: tuple[int, int]) -> Batch:
    """The batch cut to a height and a width in px."""
    return batch if batch.images.shape[2:] == shape else on_canvas(batch, *shape)


def copy_ahead(
    batches: Iterator[Batch], device: torch.device, shapes: Iterator[tuple[int, int]] | None = None
) -> Iterator[Batch]:
    """Copy each batch to a GPU without waiting for the copy, and cut it to its shape there, if it has one.

    Copies run on ``streams.side_stream``, where the augmentation follows them, so that neither waits
    for the step in progress. The host is about a step ahead of the GPU, which is all the prefetching
    needed: no batch has to be held back.

    A batch in page-locked memory is kept until its copy has finished; only then may a worker overwrite it.
    """
    stream = side_stream(device)
    copying: deque[tuple[torch.cuda.Event, Batch]] = deque()
    try:
        while True:
            with torch.cuda.stream(stream):
                host = next(batches, None)
                if host is None:
                    return
                batch = move(host, device, non_blocking=True)
                copied = torch.cuda.Event()
                copied.record(stream)
                if shapes is not None:
                    batch = _cut(batch, next(shapes))
            copying.append((copied, host))
            del host
            while copying and copying[0][0].query():
                copying.popleft()
            hand_over(batch[:-1], stream)
            yield batch
    finally:
        for event, _ in copying:
            event.synchronize()


class TellsLoading(Protocol):
    """A data module that callbacks can ask about its data; such a data module derives from this class."""

    indices: Mapping[Any, DatasetIndex]  # index of each split that was read so far: "train", "val" or "test"

    @property
    def loading(self) -> Loading:
        """Facts of the training loader."""


def data_that_tells(trainer: Any) -> TellsLoading | None:
    """The data module of a run; None for other data."""
    data = getattr(trainer, "datamodule", None)
    return cast(TellsLoading, data) if TellsLoading in type(data).__mro__ else None
