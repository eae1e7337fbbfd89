"""Contracts: what the module asks of its data module, and what callbacks may ask of the module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..data.image_size import SizeOption
from ..data.loading.image_weights import ImageWeights
from ..evaluation.mean_average_precision import CocoMeanAveragePrecision
from ..model.losses import DetectionLoss
from ..model.network import DetectionNetwork
from .compilation import Compilation


class DetectionData(Protocol):
    """A data module that ``YOLOv5`` trains on; its loaders give ``data.batch.Batch``.

    ``image_size`` is needed. A data module of a user's own may lack the other attributes.
    """

    image_size: SizeOption  # side of the square training images in px, or [height, width]
    batch_size: int  # images of a batch in each process
    stride: int  # largest stride of the network in px, set by the module; evaluation pads to multiples
    image_weights: ImageWeights | None  # learns the average precisions of each validation of a training
    rect: bool  # training batches are rectangles of a few shapes, and mosaics are off
    copies_beside: bool  # training batches are copied to a GPU on ``streams.side_stream``

    @property
    def labels_per_image(self) -> float:
        """Mean number of labels of a training image."""

    def label_sizes_px(self) -> npt.NDArray[np.float32]:
        """Width and height of the training labels in the network's input, float32 (T, 2), above 0."""

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes 0 .. C-1."""

    @property
    def class_counts(self) -> Sequence[int]:
        """Labels of each class in the training set; for losses with a ``class_weight_power``."""

    @property
    def category_ids(self) -> Iterable[int]:
        """COCO id of each class."""


class TrainsDetections(Protocol):
    """A module that trains a detector, as callbacks see it; such a module derives from this class."""

    network: DetectionNetwork  # the network, built by ``configure_model``
    criterion: DetectionLoss  # its loss
    metric: CocoMeanAveragePrecision  # the metric of validations and tests
    compilation: Compilation  # decision on compiling, made by ``configure_model``
    weights: str | None  # file of the initial weights
    anchors: list[list[float]] | None  # widths and heights in px, a list a level; None if the model's hold
    category_ids: list[int] | None  # COCO id of each class; None if they are unknown
    waiting: Sequence[Any]  # batches without gradients so far, because their step takes the losses jointly
    schedule_progress: float | None  # done share of the schedule, 0..1; None if the epochs say so
    # Mean of each part of the training loss in this epoch, on the device.
    running_losses: Mapping[str, Tensor]
    on_augmented: Callable[[Tensor, Tensor, Tensor], None] | None  # gets ``step.Prepared`` of each batch

    @property
    def label_names(self) -> list[str]:
        """Name of each class, or its number if it has no name."""


def detection_data(trainer: Any) -> DetectionData | None:
    """The data module of a run; None for plain data loaders or without a Trainer."""
    return cast("DetectionData | None", getattr(trainer, "datamodule", None))


def detection_module(pl_module: object) -> TrainsDetections | None:
    """The module as a detector; None for any other LightningModule, which most callbacks accept too."""
    # Unlike isinstance on a Protocol, this evaluates no property.
    declares = TrainsDetections in type(pl_module).__mro__
    return cast(TrainsDetections, pl_module) if declares else None
