"""The LightningDataModule: from a folder to loaders of fixed-shape batches."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import DataLoader, Dataset

from ..batch import label_capacity
from ..errors import InputError
from .cache import CacheMode, ImageCache, open_cache
from .dataset import DetectionDataset, PredictionDataset, Sample, collate, list_images
from .decode import Pixels, read_image
from .index import DatasetIndex, IntArray
from .layout import DataSource, Split
from .sampler import EvalSampler, SameShapeBatchSampler, TrainSampler

_SPLITS_OF_STAGE: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": (),
}

MOST_WORKERS = 8


class DetectionDataModule(LightningDataModule):
    """Labelled images of a COCO or YOLO data set, and images to predict on.

    Args:
        root: Folder of the data set. With annotations/instances_{train,val,test}*.json it is COCO, with
            a data.yaml it is YOLO; the path of a data.yaml itself is taken too.
        image_size: Side of the square that images are letterboxed to, in px; a multiple of 32.
        batch_size: Images of a batch in each process.
        num_workers: Processes that decode images, for each loader; auto is one per usable CPU core of
            the process, 8 at most; 0 decodes in the main process.
        cache: Where decoded images are kept: none, ram (shared memory, removed at the end), or disk
            (beside the data, kept). Needs 3 x image_size^2 bytes an image.
        predict_source: An image or a folder to predict on, or a list of them ("[a.jpg, b]"); folders are
            searched to the bottom.
        train_annotations: COCO JSON of the training split, instead of the one under root.
        train_images: Folder of the training images, instead of the one under root (YOLO: or a .txt list).
        val_annotations: COCO JSON of the validation split, instead of the one under root.
        val_images: Folder of the validation images, instead of the one under root.
        test_annotations: COCO JSON of the test split, instead of the one under root.
        test_images: Folder of the test images, instead of the one under root.
        seed: Of the order of the training images, 0 or more.
        pin_memory: Copy batches to page-locked memory, from which a GPU fetches them while it computes;
            auto does so where CUDA is there.

    Raises:
        InputError: An option is out of range.
    """

    def __init__(
        self,
        root: str | None = None,
        image_size: int = 640,
        batch_size: int = 16,
        num_workers: int | Literal["auto"] = "auto",
        cache: CacheMode = "none",
        predict_source: str | list[str] | None = None,
        train_annotations: str | None = None,
        train_images: str | None = None,
        val_annotations: str | None = None,
        val_images: str | None = None,
        test_annotations: str | None = None,
        test_images: str | None = None,
        seed: int = 0,
        pin_memory: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        if image_size < 32 or image_size % 32:
            near = max(32, round(image_size / 32) * 32)
            raise InputError(f"data.image_size {image_size} is not a multiple of 32; use {near}")
        if batch_size < 1:
            raise InputError(f"data.batch_size {batch_size} is too small; use 1 or more")
        if num_workers != "auto" and num_workers < 0:
            raise InputError(f"data.num_workers {num_workers} is negative; use 0 or more, or auto")
        if seed < 0:
            raise InputError(f"data.seed {seed} is negative; use 0 or more")
        if cache not in ("none", "ram", "disk"):
            raise InputError(f"data.cache '{cache}' is unknown; use none, ram or disk")
        annotations: dict[Split, str | None] = {
            "train": train_annotations,
            "val": val_annotations,
            "test": test_annotations,
        }
        images: dict[Split, str | None] = {"train": train_images, "val": val_images, "test": test_images}
        self.source = DataSource(
            root=Path(root).expanduser().absolute() if root is not None else None,
            annotations={s: Path(p).expanduser().absolute() for s, p in annotations.items() if p is not None},
            images={s: Path(p).expanduser().absolute() for s, p in images.items() if p is not None},
        )
        self.image_size = image_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.cache = cache
        self.predict_source = predict_source
        self.seed = seed
        self.pin_memory = pin_memory
        self.stride = 32
        """Largest stride of the network in px; evaluation pads to multiples of it. The network sets it."""
        self._indices: dict[Split, DatasetIndex] = {}
        self._stage = "fit"

    # What the data set is

    def index(self, split: Split) -> DatasetIndex:
        """The index of a split, read and reported on first use.

        Raises:
            InputError: The split is missing or wrong.
        """
        if split not in self._indices:
            self._indices[split] = index = self.source.read(split)
            rank_zero_info(index.report.summary(f"{split} ({index.source})"))
        return self._indices[split]

    def build_indices(self, stage: str) -> None:
        """Read all that a stage needs; meant to be called before any process group starts.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            InputError: A split is missing or wrong, or the splits have different classes.
        """
        for split in _SPLITS_OF_STAGE[stage]:
            self.index(split)
        if stage == "fit":
            train, val = self.index("train"), self.index("val")
            if train.class_names != val.class_names or not np.array_equal(
                train.category_ids, val.category_ids
            ):
                raise InputError(
                    f"{val.source}: its classes are not those of {train.source}; "
                    f"make the categories of the two files equal"
                )
            if not train.trainable.any():
                raise InputError(
                    f"{train.source}: the train split has no label to learn from; "
                    f"add labels, or correct where they are looked for"
                )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes 0 .. C-1."""
        for index in self._indices.values():
            return index.class_names
        return self.source.class_names()

    @property
    def category_ids(self) -> IntArray:
        """int64 (C,), the COCO id of each class; 1 .. C for YOLO. Reads an index if none is there."""
        for index in self._indices.values():
            return index.category_ids
        split: Split = "val" if self.source.has("val") else "train"
        return self.index(split).category_ids

    @cached_property
    def predict_paths(self) -> list[Path]:
        """The images to predict on.

        Raises:
            InputError: There is no ``predict_source``, or it has no images.
        """
        if self.predict_source is None:
            raise InputError("there is nothing to predict; give images or folders as --data.predict_source")
        return list_images(self.predict_source)

    def predict_image(self, position: int) -> Pixels:
        """uint8 (H, W, 3) of one of ``predict_paths``, upright, in BGR as OpenCV draws and writes it."""
        return read_image(self.predict_paths[position])

    # Lightning's hooks

    def prepare_data(self) -> None:
        """Build the caches, once on each machine."""
        stage = self.trainer.state.fn if self.trainer is not None else None
        for split in _SPLITS_OF_STAGE[stage.value] if stage is not None else ():
            self._open_cache(split)

    def setup(self, stage: str) -> None:
        """Read what a stage needs; the data sets wait for the network, which may change ``stride``."""
        if stage == "predict":
            _ = self.predict_paths
        else:
            self.build_indices(stage)
        self._stage = stage

    def train_dataloader(self) -> DataLoader[Sample]:
        """Full batches of squares in seeded order."""
        dataset = self._dataset("train")
        sampler = TrainSampler(dataset, self.batch_size, self.seed)
        if self.trainer is not None:
            # Workers begin to fetch before Lightning tells the sampler which epoch a resumed run is in.
            sampler.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        return self._loader(dataset, batch_size=self.batch_size, sampler=sampler)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Every validation image once, those of one shape together."""
        return self._evaluation_loader(self._dataset("val"))

    def test_dataloader(self) -> DataLoader[Sample]:
        """Every test image once, those of one shape together."""
        return self._evaluation_loader(self._dataset("test"))

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Every image of ``predict_source`` once, those of one shape together."""
        return self._evaluation_loader(PredictionDataset(self.predict_paths, self.image_size, self.stride))

    def _dataset(self, split: Split) -> DetectionDataset:
        # One capacity for the splits of a stage, so that there is one shape and one compiled graph.
        most = max(self.index(other).most_labels for other in _SPLITS_OF_STAGE[self._stage])
        return DetectionDataset(
            self.index(split),
            self.image_size,
            label_capacity(most),
            split == "train",
            self._open_cache(split),
            self.stride,
        )

    def _evaluation_loader(self, dataset: DetectionDataset | PredictionDataset) -> DataLoader[Sample]:
        sampler = SameShapeBatchSampler(EvalSampler(dataset), self.batch_size)
        return self._loader(dataset, batch_sampler=sampler)

    def _loader(self, dataset: Dataset[Sample], **batching: Any) -> DataLoader[Sample]:
        workers = self.worker_count()
        return DataLoader(
            dataset,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available() if self.pin_memory == "auto" else self.pin_memory,
            worker_init_fn=prepare_worker,
            persistent_workers=workers > 0,
            **batching,
        )

    def worker_count(self) -> int:
        """Worker processes of each loader."""
        if self.num_workers != "auto":
            return self.num_workers
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        processes = self.trainer.num_devices if self.trainer is not None else 1
        return max(1, min(MOST_WORKERS, cores // processes))

    def _open_cache(self, split: Split) -> ImageCache | None:
        if self.cache == "none":
            return None
        return open_cache(self.index(split), self.image_size, split == "train", self.cache, rank_zero_info)


def prepare_worker(worker_id: int) -> None:
    """Set up a worker process: one thread, and memory that is kept for the next image.

    Workers are the parallelism; threads within them would fight over the same cores. By default
    glibc gives the memory of a decoded image back to the system, and the next image pays for a page
    fault every 4 KiB: 715 faults an image at 640 px, up to twice the time of decoding it.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        mallopt(trim_threshold, 1 << 30)
        # Older glibc refuse more than 32 MiB.
        _ = mallopt(mmap_threshold, 1 << 28) or mallopt(mmap_threshold, 1 << 25)
