"""Data sets for training, evaluation and prediction, and their samples collated to a ``Batch``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from time import perf_counter_ns
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, default_collate, get_worker_info

from ...errors import InputError
from ..annotations.index import DatasetIndex, FloatArray, ids_from_paths
from ..batch import Batch, label_capacity
from ..image_size import Size
from ..images import decode
from ..images.cache import ImageCache
from ..images.copy_paste import CopyPaste
from ..images.decode import (
    Pixels,
    content_slice,
    draw,
    header_size,
    paste,
    read_bytes,
    read_rgb,
    resize,
)
from ..images.effects import Effects
from ..images.faults import FAILED, UNENDED, Faults, stand_ins
from ..images.truncation import has_end
from ..letterbox import enclosing_rectangle, letterbox_geometry

_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


class Sample(NamedTuple):
    """One image and its labels; the fields of ``Batch``, in the same order, without the first dimension."""

    image: Pixels  # uint8 (H, W, 3), RGB
    targets: FloatArray  # float32 (N, 5)
    label_count: int
    position: int  # position of the image in its data set
    image_id: int
    original_size: npt.NDArray[np.int64]
    letterbox: FloatArray
    truth: FloatArray  # float32 (M, 7)
    truth_count: int


class DetectionDataset(Dataset[Sample]):
    """The images of an index, letterboxed, with labels padded to a fixed number of rows.

    In training, all have the same size. In evaluation, each lies in the smallest rectangle of whole strides
    that is half a stride wider than it, as in classic YOLOv5: padding costs time, and a little of the score
    of objects at the edge.

    In training, another image with its labels takes the place of one that cannot be decoded: what an epoch
    gives depends on which images fail, and not on when. In evaluation its original size is 0 x 0.

    Args:
        image_size: Height and width in px that each image is scaled into.
        capacity: N, rows for labels.
        train: Interpolate as for training, without ``truth`` (M = 0); else keep the raw annotations, M rows
            for those of the fullest image.
        cache: Decoded images, made with the same ``image_size`` and ``train``.
        stride: Stride of the rectangles, in px.
        faults: Where failing images are noted; if left out, the first raises its error.
        effects: Changes of the pixels for :meth:`training_sample`.
        copy_paste: Objects that it pastes into an image; the index has outlines.

    Attributes:
        canvases: int64 (I, 2), height and width in px of each letterboxed image.
    """

    def __init__(
        self,
        index: DatasetIndex,
        image_size: Size,
        capacity: int,
        train: bool,
        cache: ImageCache | None = None,
        stride: int = 32,
        faults: Faults | None = None,
        effects: Effects | None = None,
        copy_paste: CopyPaste | None = None,
    ) -> None:
        self.index = index
        self.image_size = image_size
        self.capacity = capacity
        self.truth_capacity = 0 if train else label_capacity(index.most_labels)
        self.train = train
        self.cache = cache
        self.effects = effects
        self.copy_paste = copy_paste
        self.faults = faults or Faults(len(index), index.path)
        if cache is not None:
            self.faults.marks[torch.from_numpy(cache.marks == UNENDED)] = UNENDED
            for i in np.flatnonzero(cache.marks == FAILED).tolist():
                self.faults.add(i, InputError(self._error(i)))
        self.canvases = np.full((len(index), 2), image_size)
        if not train:
            scaled = [letterbox_geometry(h, w, image_size) for h, w in index.sizes.tolist()]
            self.canvases = np.array([enclosing_rectangle(p.height, p.width, stride, 0.5) for p in scaled])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Sample:
        return self.timed_sample(i, np.empty((*self.canvases[i], 3), np.uint8))[0]

    def timed_sample(self, i: int, image: Pixels) -> tuple[Sample, int]:
        """Image i and its labels, and the time of reading the file, in ns.

        Fills ``image``, uint8 (H, W, 3) of the size of its canvas.

        Raises:
            InputError: Too many images cannot be decoded, see ``Faults.add``.
        """
        for place in chain([i], stand_ins(i, len(self)) if self.train else []):
            try:
                read_ns = self._draw(place, image)
            except InputError as error:
                self.faults.add(place, error)
            else:
                return self.labels(place, image), read_ns
        return self.labels(i, image)._replace(original_size=np.zeros(2, np.int64)), 0

    def training_sample(self, i: int, epoch: int, image: Pixels) -> tuple[Sample, int]:
        """:meth:`timed_sample` with what an epoch changes in it; i is a number of ``TrainSampler.order``."""
        repeats, place = divmod(i, len(self))
        sample, read_ns = self.timed_sample(place, image)
        if self.copy_paste is not None:
            sample = self._paste(self.copy_paste, sample, epoch, i)
        if self.effects is not None:
            self.effects.apply(image, epoch, i)
        return sample._replace(position=sample.position + repeats * len(self)), read_ns

    def _paste(self, copy_paste: CopyPaste, sample: Sample, epoch: int, i: int) -> Sample:
        """A sample after copy-paste, which changes its pixels in place and adds labels."""
        height, width = self.index.sizes[sample.position].tolist()
        content = sample.image[content_slice(letterbox_geometry(height, width, self.image_size))]
        gain, pad = sample.letterbox[:2], sample.letterbox[[2, 3, 2, 3]]
        labels = sample.targets[: sample.label_count].copy()
        labels[:, 1:] -= pad
        outlines = [points * gain for points in self.index.outlines_of(sample.position)]
        pasted = copy_paste.apply(content, labels, outlines, epoch, i)
        pasted[:, 1:] += pad
        count = sample.label_count + len(pasted)
        sample.targets[sample.label_count : count] = pasted
        return sample._replace(label_count=count)

    def report(self) -> None:
        """Report images that have failed in any process."""
        self.faults.report(self._error)

    def _error(self, i: int) -> str:
        """The error of an image that has failed."""
        path, (height, width) = self.index.path(i), self.index.sizes[i].tolist()
        try:
            read_rgb(path, (height, width))
        except InputError as error:
            return str(error)
        return f"{path}: the image could not be read for a while; look at the disk or network it is on"

    def labels(self, i: int, image: Pixels = _NO_PIXELS) -> Sample:
        """Labels of image i, with the given pixels."""
        height, width = self.index.sizes[i].tolist()
        place = letterbox_geometry(height, width, self.image_size, tuple(self.canvases[i].tolist()))
        targets = self.index.labels(i)  # (n, 5)
        letterbox = np.array(place[2:], np.float32)
        targets[:, 1:] = targets[:, 1:] * letterbox[[0, 1, 0, 1]] + letterbox[[2, 3, 2, 3]]
        truth = np.zeros((0, 7), np.float32) if self.train else self.index.truth(i)
        return Sample(
            image=image,
            targets=_pad_rows(targets, self.capacity),
            label_count=len(targets),
            position=i,
            image_id=int(self.index.image_ids[i]),
            original_size=np.array((height, width)),
            letterbox=letterbox,
            truth=_pad_rows(truth, self.truth_capacity),
            truth_count=len(truth),
        )

    def _draw(self, i: int, image: Pixels) -> int:
        """Write the pixels of image i; returns the time of reading the file, in ns."""
        height, width = self.index.sizes[i].tolist()
        path = self.index.path(i)
        if self.cache is not None:
            if self.cache.marks[i] == FAILED:
                raise InputError(f"{path}: not a readable image; replace or remove it")
            cached = self.cache.pixels[i]
            if image.shape == cached.shape:
                image[:] = cached
                return 0
            place = letterbox_geometry(height, width, self.image_size, image.shape[:2])
            content = cached[content_slice(letterbox_geometry(height, width, self.image_size))]
            paste(content, place, image)
            return 0
        before = perf_counter_ns()
        with self.faults.reading(i):
            data = read_bytes(path)
            read_ns = perf_counter_ns() - before
            draw(data, path, (height, width), self.image_size, self.train, image)
        if not has_end(data):
            self.faults.marks[i] = UNENDED
        return read_ns


class PredictionDataset(Dataset[Sample]):
    """Images without labels (16 empty rows, M = 0), each in the smallest rectangle of whole strides.

    Scaling and padding are those of classic YOLOv5's ``detect.py``. An image that cannot be read is a black
    square whose original size is 0 x 0, so that one bad file does not end a run over thousands.

    Args:
        paths: The images; their ids are those of ``index.ids_from_paths``.
        image_size: Height and width in px that each image is scaled into; None: as large as it is.
        stride: Stride of the rectangles, in px.
        max_mp: Largest image that is decoded, in millions of px.

    Attributes:
        canvases: int64 (I, 2), height and width in px of each letterboxed image.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        image_size: Size | None,
        stride: int = 32,
        max_mp: int = decode.MAX_MEGAPIXELS,
    ) -> None:
        self.paths = list(paths)
        self.faults = Faults(len(self.paths), self.paths.__getitem__)
        self.image_ids = ids_from_paths([str(path) for path in paths])
        self.image_size = image_size
        self.stride = stride
        self.sizes = [_readable_size(path, max_mp) for path in paths]
        self.canvases = np.array([prediction_canvas(size, image_size, stride) for size in self.sizes])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Sample:
        position, image_id = i, int(self.image_ids[i])
        try:
            with self.faults.reading(i):
                pixels = read_rgb(self.paths[i], self.sizes[i])
        except InputError:
            black = np.zeros((*self.canvases[i], 3), np.uint8)
            sample = prediction_sample(black, self.image_size, self.stride, position, image_id)
            return sample._replace(original_size=np.zeros(2, np.int64))
        return prediction_sample(pixels, self.image_size, self.stride, position, image_id)


def prediction_canvas(size: Size, image_size: Size | None, stride: int) -> Size:
    """Height and width in px of the smallest canvas of whole strides around an image of a size, scaled."""
    scaled = letterbox_geometry(*size, image_size or size, rounding=round)
    return enclosing_rectangle(scaled.height, scaled.width, stride, 0)


def prediction_sample(
    pixels: Pixels,
    image_size: Size | None,
    stride: int,
    position: int,
    image_id: int = 0,
    canvas: Size | None = None,
) -> Sample:
    """Letterbox an image to predict on.

    Args:
        pixels: uint8 RGB (H, W, 3).
        image_size: Height and width in px that the image is scaled into; None: as it is.
        stride: Stride of the rectangle around it, in px.
        position: Number by which the image is known.
        image_id: Id of the image.
        canvas: Height and width in px of a canvas that the image is scaled to, instead.
    """
    height, width = pixels.shape[:2]
    image_size = canvas or image_size or (height, width)
    canvas = canvas or prediction_canvas((height, width), image_size, stride)
    filled = np.empty((*canvas, 3), np.uint8)
    place = letterbox_geometry(height, width, image_size, canvas, rounding=round)
    paste(resize(pixels, place, linear=True), place, filled)
    return Sample(
        image=filled,
        targets=np.zeros((label_capacity(0), 5), np.float32),
        label_count=0,
        position=position,
        image_id=image_id,
        original_size=np.array((height, width)),
        letterbox=np.array(place[2:], np.float32),
        truth=np.zeros((0, 7), np.float32),
        truth_count=0,
    )


def _readable_size(path: Path, max_mp: int) -> tuple[int, int]:
    """Height and width in px by the header; 1 x 1, which no reading will confirm, if the file is refused."""
    try:
        size = header_size(path)
        decode.refuse_large(path, size, max_mp)
    except InputError:
        return 1, 1
    return size


def collate(samples: Sequence[Sample]) -> Batch:
    """Collate B samples of one shape to a batch.

    Images are stacked as (B, H, W, 3) and viewed as (B, 3, H, W).
    """
    if get_worker_info() is not None:  # stacks straight into the shared memory in which a batch travels
        images, *columns = default_collate(list(samples))
    else:  # torch.stack would wait for threads of other cores, which may be busy
        images, *columns = (torch.from_numpy(np.stack(column)) for column in zip(*samples, strict=True))
    return Batch(images.permute(0, 3, 1, 2), *columns)  # (B, 3, H, W), channels last


def _pad_rows(rows: FloatArray, capacity: int) -> FloatArray:
    padded = np.zeros((capacity, rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    return padded
