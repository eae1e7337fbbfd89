"""Index and pixels to samples, and samples to a ``Batch``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ..batch import Batch, label_capacity
from ..boxes import letterbox_geometry
from ..errors import InputError
from .cache import ImageCache
from .decode import Pixels, load_letterboxed
from .index import DatasetIndex, ids_from_paths, missing_files
from .yolo import images_below

FloatArray = npt.NDArray[np.float32]


class Sample(NamedTuple):
    """One image as a worker makes it; the fields of ``Batch`` without the first dimension."""

    image: Pixels
    """uint8 (S, S, 3), RGB."""
    targets: FloatArray
    """float32 (N, 5)."""
    label_count: int
    position: int
    """Of the image in its data set."""
    image_id: int
    original_size: tuple[int, int]
    letterbox: tuple[float, float, float, float]
    truth: FloatArray
    """float32 (M, 7)."""
    truth_count: int


class DetectionDataset(Dataset[Sample]):
    """The images of an index, letterboxed, with labels padded to a fixed number of rows.

    Args:
        index: The split.
        image_size: S in px.
        capacity: N, rows for labels.
        train: True interpolates as training does and leaves ``truth`` empty (M = 0); False carries
            the raw annotations, M being the capacity of the index.
        cache: Decoded pixels, made with the same ``image_size`` and ``train``.

    Raises:
        InputError: An image has more labels than ``capacity``.
    """

    def __init__(
        self,
        index: DatasetIndex,
        image_size: int,
        capacity: int,
        train: bool,
        cache: ImageCache | None = None,
    ) -> None:
        if index.most_labels > capacity:
            raise InputError(
                f"{index.source}: an image has {index.most_labels} labels but there is room for {capacity}; "
                f"use a capacity of {label_capacity(index.most_labels)}"
            )
        self.index = index
        self.image_size = image_size
        self.capacity = capacity
        self.truth_capacity = 0 if train else label_capacity(index.most_labels)
        self.train = train
        self.cache = cache

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Sample:
        height, width = self.index.sizes[i].tolist()
        if self.cache is not None:
            image = self.cache[i]
        else:
            image, _ = load_letterboxed(self.index.path(i), self.image_size, self.train, (height, width))
        place = letterbox_geometry(height, width, self.image_size)
        targets = self.index.labels(i)  # (n, 5)
        gain = np.array([place.gain_x, place.gain_y] * 2, np.float32)
        pad = np.array([place.pad_x, place.pad_y] * 2, np.float32)
        targets[:, 1:] = targets[:, 1:] * gain + pad
        truth = np.zeros((0, 7), np.float32) if self.train else self.index.truth(i)
        return Sample(
            image=image,
            targets=_pad_rows(targets, self.capacity),
            label_count=len(targets),
            position=i,
            image_id=int(self.index.image_ids[i]),
            original_size=(height, width),
            letterbox=(place.gain_x, place.gain_y, place.pad_x, place.pad_y),
            truth=_pad_rows(truth, self.truth_capacity),
            truth_count=len(truth),
        )


class PredictionDataset(Dataset[Sample]):
    """Images without labels: N = 16 empty rows and M = 0, so that the shapes are those of training.

    Args:
        paths: The images; their ids follow ``index.ids_from_paths``.
        image_size: S in px.
    """

    def __init__(self, paths: Sequence[Path], image_size: int) -> None:
        self.paths = list(paths)
        self.image_ids = ids_from_paths([str(path) for path in paths])
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Sample:
        image, (height, width) = load_letterboxed(self.paths[i], self.image_size, train=False)
        place = letterbox_geometry(height, width, self.image_size)
        return Sample(
            image=image,
            targets=np.zeros((label_capacity(0), 5), np.float32),
            label_count=0,
            position=i,
            image_id=int(self.image_ids[i]),
            original_size=(height, width),
            letterbox=(place.gain_x, place.gain_y, place.pad_x, place.pad_y),
            truth=np.zeros((0, 7), np.float32),
            truth_count=0,
        )


def list_images(source: str | Sequence[str]) -> list[Path]:
    """The images that are meant: files as given, folders with everything below them, sorted.

    Raises:
        InputError: Something does not exist, or a folder has no images.
    """
    found: dict[str, None] = {}
    for name in [source] if isinstance(source, str) else source:
        path = Path(name).absolute()
        images = images_below(path) if path.is_dir() else [str(path)]
        if not images:
            raise InputError(f"{path}: the folder has no images; give a folder that has, or an image")
        if missing_files(images):
            raise InputError(f"{path}: no such image or folder; correct --data.predict_source")
        found.update(dict.fromkeys(images))
    if not found:
        raise InputError("there is nothing to predict; give images or folders as --data.predict_source")
    return [Path(path) for path in found]


def collate(samples: Sequence[Sample]) -> Batch:
    """B samples to a batch; the images are stacked as (B, S, S, 3) and seen as (B, 3, S, S).

    In a worker the images are stacked straight into the shared memory in which they travel.
    """
    first = samples[0].image
    images = _stack([sample.image for sample in samples], (len(samples), *first.shape))  # (B, S, S, 3)
    return Batch(
        images=images.permute(0, 3, 1, 2),  # (B, 3, S, S), channels last
        targets=torch.from_numpy(np.stack([sample.targets for sample in samples])),
        count=torch.tensor([sample.label_count for sample in samples]),
        index=torch.tensor([sample.position for sample in samples]),
        image_ids=torch.tensor([sample.image_id for sample in samples]),
        original_sizes=torch.tensor([sample.original_size for sample in samples]),
        letterbox=torch.tensor([sample.letterbox for sample in samples], dtype=torch.float32),
        truth=torch.from_numpy(np.stack([sample.truth for sample in samples])),
        truth_count=torch.tensor([sample.truth_count for sample in samples]),
    )


def _stack(images: list[Pixels], shape: tuple[int, ...]) -> Tensor:
    if get_worker_info() is None:
        return torch.from_numpy(np.stack(images))
    # The storage that torch's own default_collate uses; there is no public way to it.
    storage = torch.UntypedStorage._new_shared(int(np.prod(shape)), device="cpu")
    stacked = torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)  # (B, S, S, 3)
    np.stack(images, out=stacked.numpy())
    return stacked


def _pad_rows(rows: FloatArray, capacity: int) -> FloatArray:
    padded = np.zeros((capacity, rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    return padded
