"""LightningDataModule: from the folder of a data set to loaders of batches."""

from __future__ import annotations

import math
import sys
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from ..errors import InputError
from ..system.cores import usable_cores
from .annotations.findings import Finding
from .annotations.index import DatasetIndex, FloatArray, IntArray
from .annotations.selection import Selection
from .annotations.source import SPLITS, DataSource, Split
from .batch import Batch, label_capacity, move
from .image_size import SizeOption, as_option, checked_size
from .images import waiting
from .images.choose_cache import CACHE_MODES, CacheOption, CachePlan
from .images.copy_paste import CopyPaste
from .images.decode import MAX_MEGAPIXELS
from .images.effects import Effects
from .images.faults import Faults
from .indices import Indices
from .letterbox import letterbox_ratios
from .loading.dataset import DetectionDataset, PredictionDataset, collate
from .loading.evaluation_loader import EvaluationLoader
from .loading.image_weights import ImageWeights
from .loading.ordered import DeviceLoader, Loading, OrderedLoader, TellsLoading
from .loading.rectangles import training_rectangles
from .loading.sampler import EvalSampler, SameShapeBatchSampler, TrainSampler
from .loading.sources import Sources, find_sources
from .loading.video import Letterboxing, PredictionLoader
from .loading.worker_loader import WorkerLoader, prepare_worker

PATH_OPTIONS = ("root", *(f"{split}_{kind}" for split in SPLITS for kind in ("annotations", "images")))
"""Options of ``data`` that are paths, besides ``predict_source``, which may be a list."""

_SPLITS_OF_STAGE: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": (),
}


def _paths(train: str | None, val: str | None, test: str | None) -> dict[Split, Path]:
    """The given paths, absolute."""
    given: dict[Split, str | None] = {"train": train, "val": val, "test": test}
    return {split: Path(path).expanduser().absolute() for split, path in given.items() if path is not None}


def _refuse_wrong_loading(
    batch_size: int | str, num_workers: int | Literal["auto"], seed: int, cache: str
) -> None:
    if isinstance(batch_size, str):
        raise InputError(f"data.batch_size is '{batch_size}'; give a number (fit alone plans auto)")
    if batch_size < 1:
        raise InputError(f"data.batch_size {batch_size} is too small; use 1 or more")
    if num_workers != "auto" and num_workers < 0:
        raise InputError(f"data.num_workers {num_workers} is negative; use 0 or more, or auto")
    if seed < 0:
        raise InputError(f"data.seed {seed} is negative; use 0 or more")
    if cache not in ("auto", *CACHE_MODES):
        raise InputError(f"data.cache '{cache}' is unknown; use auto, none, disk, ram or device")


class DetectionDataModule(LightningDataModule, TellsLoading):
    """Labelled images of a data set, and images to predict on.

    Args:
        root: Folder of the data set, or its data.yaml or other file. A folder with
            annotations/instances_{train,val,test}*.json is COCO, any other with a data.yaml is YOLO. What
            other tools write is told by the files; see docs/data.md.
        image_size: Side of the square that images are letterboxed to, in px, or [height, width]; multiples of
            32.
        batch_size: Images of a batch in each process. auto, of fit alone: the largest batch that the plan of
            the memory fits, at most model.optimizer.nominal_batch_size; see docs/configuration.md.
        num_workers: Processes of each loader that decode images; 0 decodes in the main process, with one
            thread per core. auto: 0 if nothing is decoded or training needs the same cores, otherwise
            one per usable core, at most 16.
        cache: Place of the decoded images: none, disk (a file beside the data, kept for all processes and
            later runs), ram (a file in shared memory, removed at the end), or device (the training
            device, filled from such a file). Takes 3 bytes per px of image_size. auto: the fastest
            one with enough room, of device, disk, ram, none.
        predict_source: Image, video, folder (searched recursively), pattern ("a/**/*.jpg"), .txt file with a
            path a line, address (http, rtsp ...) or number of a camera to predict on, or a list of them
            ("[a.jpg, b]").
        train_annotations: COCO JSON of the training split, instead of the one under root.
        train_images: Folder of the training images, instead of the one under root (YOLO: or a .txt list).
        val_annotations: COCO JSON of the validation split, instead of the one under root.
        val_images: Folder of the validation images, instead of the one under root.
        test_annotations: COCO JSON of the test split, instead of the one under root.
        test_images: Folder of the test images, instead of the one under root.
        seed: Seed of the order of the training images, 0 or more.
        allow_outside: Read images and labels that lie outside of the folders named above. A file name in
            annotations, an entry of a data.yaml, or a symbolic link can lead there; see docs/data.md.
        max_megapixels: Largest image that is decoded, in millions of px, up to 1073. A decoded image takes
            3 bytes per px, in each worker.
        format: Format of the data set: auto, coco, yolo, darknet, voc, cvat, supervisely, labelme, via, vott,
            label-studio or csv.
        val_share: Share of the images that validates if the files of the data set name no val split, chosen
            by a hash of the path. A data.yaml, or COCO files named after splits, need a val split; 0: all.
        classes: Names or numbers (0 .. C-1) of the classes to train and evaluate on ("[person, 2]"); by
            default all. Labels of other classes are left out, and the classes keep their numbers.
        single_cls: Give all labels one class, "item".
        fraction: Share of the training images to train on, above 0 to 1, chosen by a hash of the path.
        rect: Train on rectangles of at most four shapes: images of like aspect ratios come together, with
            less padding, and without mosaics, mixup and cutmix.
        image_weights: Draw images with classes that are rare or found badly more often, by the average
            precisions of the last validation. An epoch then has some images several times, others not at all.
        classic_albumentations: Blur, grey and equalise (CLAHE) one image of a hundred each, as classic YOLOv5
            does where Albumentations is installed. With cache device, images then come from the cache's file.
        copy_paste: Share of the objects with an outline, 0 to 1, that are also pasted into their image,
            mirrored, if they cover little of others. COCO and YOLO labels may have polygons as outlines.
        on_error: What happens if images or labels are found to be wrong before training: raise lists all
            of them and stops; skip leaves these images out, lists them, and goes on.
        max_skipped: Largest share of the images of a split that may be left out, 0 to 1; above it, the run
            stops. It counts images that skip leaves out, and images that fail to decode during the run, of
            which one always may, unless it is 0.
        pin_memory: Copy evaluation batches to page-locked memory, from which a GPU fetches them while it
            computes; auto does so if there is CUDA. Training batches always are in such memory.

    Raises:
        InputError: An option is out of range.
    """

    copies_beside = True
    """Training batches are copied to a GPU on ``streams.side_stream``."""

    def __init__(
        self,
        root: str | None = None,
        image_size: SizeOption = 640,
        batch_size: int | Literal["auto"] = 16,
        num_workers: int | Literal["auto"] = "auto",
        cache: CacheOption = "auto",
        predict_source: str | int | list[str | int] | None = None,
        train_annotations: str | None = None,
        train_images: str | None = None,
        val_annotations: str | None = None,
        val_images: str | None = None,
        test_annotations: str | None = None,
        test_images: str | None = None,
        seed: int = 0,
        pin_memory: bool | Literal["auto"] = "auto",
        allow_outside: bool = False,
        max_megapixels: int = MAX_MEGAPIXELS,
        format: str = "auto",
        val_share: float = 0.2,
        on_error: Literal["raise", "skip"] = "raise",
        max_skipped: float = 0.1,
        classes: list[int | str] | None = None,
        single_cls: bool = False,
        fraction: float = 1.0,
        rect: bool = False,
        image_weights: bool = False,
        classic_albumentations: bool = False,
        copy_paste: float = 0.0,
    ) -> None:
        super().__init__()
        self.canvas = checked_size(image_size, 32, "data.image_size")  # of each training image
        self.image_size = as_option(self.canvas)
        if rect and isinstance(self.image_size, list):
            raise InputError("data.rect chooses rectangles by itself; give data.image_size as one number")
        _refuse_wrong_loading(batch_size, num_workers, seed, cache)
        if not 0 <= copy_paste <= 1:
            raise InputError(f"data.copy_paste {copy_paste} is no share; use 0 to 1")
        self.source = DataSource(
            root=Path(root).expanduser().absolute() if root is not None else None,
            annotations=_paths(train_annotations, val_annotations, test_annotations),
            images=_paths(train_images, val_images, test_images),
            allow_outside=allow_outside,
            format=format,
            val_share=val_share,
            selection=Selection(classes, single_cls, fraction),
            keep_outlines=copy_paste > 0,
        )
        self.indices = Indices(
            self.source,
            self.canvas,
            keep=cache != "none",
            max_megapixels=max_megapixels,
            on_error=on_error,
            max_skipped=max_skipped,
            announce=rank_zero_info,
        )
        self.batch_size = int(batch_size)  # auto was refused
        self.num_workers = num_workers
        self.cache = cache
        self.predict_source = predict_source
        self.seed = seed
        self.pin_memory = pin_memory
        self.max_megapixels = max_megapixels
        self.max_skipped = max_skipped
        self.rect = rect
        self.effects = Effects(seed) if classic_albumentations else None
        self.copy_paste = CopyPaste(seed, copy_paste) if copy_paste else None
        self.image_weights = ImageWeights() if image_weights else None
        self.stride = 32  # largest of the network in px, which sets it; evaluation pads to multiples of it
        self.predict_whole = False  # do not scale images to predict: a network sees them in tiles
        self.predict_every = 1  # frames of a video or stream from one that is predicted to the next
        self.predict_stride = 1  # largest of the other models of an ensemble, in px
        self.predict_loader: PredictionLoader
        self._failed: list[Finding] = []  # images that could not be decoded in this run, by this process
        self._cache_plan: CachePlan
        self._prepared_for: tuple[str, torch.device, int] | None = None
        self._train_loader: OrderedLoader | None = None
        self._evaluation_loaders: list[EvaluationLoader] = []

    def index(self, split: Split) -> DatasetIndex:
        """The index of a split, read on first use, when its summary is logged.

        Raises:
            InputError: The split is missing or wrong.
        """
        return self.indices[split]

    @property
    def left_out(self) -> list[Finding]:
        """The errors of the splits read so far, whose images are in no epoch, and those that failed since."""
        errors = [f for index in self.indices.values() for f in index.findings if f.is_error]
        return [*errors, *self._failed]

    def build_indices(self, stage: str) -> None:
        """Read the indices of a stage (``fit``, ``validate`` ...); call it before a process group starts.

        Raises:
            InputError: A split is missing or wrong, or the splits have different classes.
        """
        if stage == "fit":
            self.indices.read_for_training()
        else:
            self.indices.read(_SPLITS_OF_STAGE[stage])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes 0 .. C-1."""
        return self.indices.classes()[0]

    @property
    def category_ids(self) -> IntArray:
        """int64 (C,), COCO id of each class; 1 .. C for YOLO."""
        return self.indices.classes()[1]

    @property
    def class_counts(self) -> list[int]:
        """Labels of each class to train on, C numbers."""
        counts: list[int] = self.indices["train"].class_counts.tolist()
        return counts

    @property
    def labels_per_image(self) -> float:
        """Mean number of labels of a training image."""
        return self.indices["train"].labels_per_image

    @cached_property
    def predict_sources(self) -> Sources:
        """The images and streams to predict on.

        Raises:
            InputError: There is no ``predict_source``, or it has no images.
        """
        given = [] if self.predict_source is None else self.predict_source
        names = given if isinstance(given, list) else [given]
        return find_sources([str(name) for name in names], self.source.allow_outside)

    def prepare(self, stage: str, device: torch.device | None = None, processes: int | None = None) -> None:
        """Read the indices and build the caches of a stage; one process of a machine builds, the others wait.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.
            device: Device of the training; the Trainer's if None.
            processes: Processes that share this machine's cores; the Trainer's if None.

        Raises:
            InputError: A split is missing or wrong, or there is no room for a cache.
        """
        trainer = self.trainer
        device = device or (trainer.strategy.root_device if trainer else torch.device("cpu"))
        processes = processes or (trainer.num_devices if trainer else 1)
        if self._prepared_for == (stage, device, processes):
            return
        self.build_indices(stage)
        indices = {split: self.indices[split] for split in _SPLITS_OF_STAGE[stage]}
        cores = max(1, usable_cores() // processes)
        self._cache_plan = CachePlan(
            indices, self.canvas, device, cores, self.cache, rank_zero_info, self.max_skipped
        )
        for split in indices:
            self._cache_plan.cache(split)
        self._prepared_for = stage, device, processes

    def setup(self, stage: str) -> None:
        """Prepare a stage; data sets are made later, because the network may change ``stride``."""
        _ = self.predict_sources if stage == "predict" else None
        self.prepare(stage)

    def train_dataloader(self) -> OrderedLoader:
        """Full batches of one size, or of a few with ``rect``, in seeded order, on the training device."""
        dataset = self._dataset("train")
        overfits = getattr(self.trainer, "overfit_batches", 0) > 0
        canvases = training_rectangles(dataset.index.sizes, self.canvas, self.stride) if self.rect else None
        weights = partial(self.image_weights.of_epoch, index=dataset.index) if self.image_weights else None
        sampler = TrainSampler(
            dataset, self.batch_size, self.seed, same_order=overfits, canvases=canvases, weights=weights
        )
        if canvases is not None:
            shapes, counts = np.unique(canvases, axis=0, return_counts=True)
            found = [f"{w} x {h} px ({n:,} images)" for (h, w), n in zip(shapes, counts, strict=True)]
            rank_zero_info(f"rect: trains on {', '.join(found)}, without mosaics, mixup and cutmix")
        if self.trainer is not None:
            # Workers begin to fetch before Lightning sets the sampler's epoch in a resumed run.
            sampler.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        plan = self._cache_plan
        if plan.choice.mode == "device" and not (self.effects or self.copy_paste):
            self._train_loader = DeviceLoader(dataset, sampler, plan.device)
        else:
            workers = plan.worker_count("train", self.num_workers)
            self._train_loader = WorkerLoader(dataset, sampler, workers, plan.device, plan.cores)
        return self._train_loader

    def state_dict(self) -> dict[str, Any]:
        """The average precisions by which images are drawn; nothing without ``image_weights``."""
        return {"class_ap": self.image_weights.class_ap} if self.image_weights else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the average precisions of a checkpoint."""
        if self.image_weights:
            self.image_weights.class_ap = [(int(first), list(ap)) for first, ap in state_dict["class_ap"]]

    def val_dataloader(self) -> EvaluationLoader:
        """Every validation image once, images of one shape together."""
        return self._evaluation_loader(self._dataset("val"), "val")

    def test_dataloader(self) -> EvaluationLoader:
        """Every test image once, images of one shape together."""
        return self._evaluation_loader(self._dataset("test"), "test")

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch, and keep on the host what it must know of the labels."""
        return move(batch, device, non_blocking=True)

    def predict_dataloader(self) -> EvaluationLoader | PredictionLoader:
        """Every image of ``predict_source`` once, images of one shape together; then frames of streams."""
        images, streams = self.predict_sources
        stride = max(self.stride, self.predict_stride)
        how = Letterboxing(None if self.predict_whole else self.canvas, stride)
        loader: EvaluationLoader | None = None
        if images:
            dataset = PredictionDataset(images, *how[:2], self.max_megapixels)
            dataset.faults.announce = rank_zero_info
            loader = self._evaluation_loader(dataset, None)
            if not streams:
                return loader
        self.predict_loader = PredictionLoader(
            loader or [], streams, how, self.batch_size, self.predict_every
        )
        return self.predict_loader

    def _dataset(self, split: Split) -> DetectionDataset:
        # One capacity for all splits of a stage means one shape and one compiled graph.
        most = max(index.most_labels for index in self._cache_plan.indices.values())
        capacity = label_capacity(self.copy_paste.most_labels(most) if self.copy_paste else most)
        index, cache = self.indices[split], self._cache_plan.cache(split)
        faults = Faults(len(index), index.path, split, self.max_skipped, self._failed, rank_zero_info)
        return DetectionDataset(
            index,
            self.canvas,
            capacity,
            split == "train",
            cache,
            self.stride,
            faults,
            *((self.effects, self.copy_paste) if split == "train" else ()),
        )

    def _evaluation_loader(
        self, dataset: DetectionDataset | PredictionDataset, split: Split | None
    ) -> EvaluationLoader:
        """Batches of rectangles, made by workers that stay from one validation to the next."""
        workers = self._cache_plan.worker_count(split, self.num_workers)
        loader = EvaluationLoader(
            dataset,
            batch_sampler=SameShapeBatchSampler(EvalSampler(dataset), self.batch_size),
            num_workers=workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available() if self.pin_memory == "auto" else self.pin_memory,
            worker_init_fn=prepare_worker,
            persistent_workers=workers > 0,
            timeout=waiting.POLL_S if workers else 0,
            # Only forked workers see the memory of ``Faults``.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        )
        self._evaluation_loaders.append(loader)
        return loader

    def label_sizes_px(self) -> FloatArray:
        """Width and height of the training labels in the network's input, float32 (T, 2), above 0."""
        index = self.indices["train"]
        limits = index.sizes[index.image_of_row][:, ::-1]  # (T, 2), width and height
        sides = np.minimum(index.boxes[:, 2:], limits) - index.boxes[:, :2].clip(0)
        scaled = sides * letterbox_ratios(limits[:, ::-1], self.canvas)[:, None]
        return scaled[index.trainable].astype(np.float32)

    @property
    def loading(self) -> Loading:
        """Facts of the training loader, for the diagnosis of stalls."""
        cache_plan, loader = self._cache_plan, self._train_loader
        fitting = cache_plan.fastest_fitting.mode
        return Loading(
            cache=cache_plan.choice.mode,
            workers=cache_plan.worker_count("train", self.num_workers),
            cores=cache_plan.cores,
            read_fraction=loader.read_fraction if loader is not None else math.nan,
            fitting_cache=None if fitting == "none" else fitting,
        )

    def teardown(self, stage: str) -> None:
        """Stop the workers."""
        if self._train_loader is not None:
            self._train_loader.close()
        for loader in self._evaluation_loaders:
            loader.end()
