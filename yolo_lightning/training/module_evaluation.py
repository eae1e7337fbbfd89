"""The part of the LightningModule that evaluates a network, and predicts with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from ..data.augment import normalise
from ..data.batch import Batch, host_labels, pack_labels
from ..errors import InputError
from ..evaluation.config import EvaluationConfig
from ..evaluation.detect import MeanLosses, detect
from ..evaluation.mean_average_precision import log_values
from ..system.lightning_internals import attached_trainer
from .contracts import DetectionData, TrainsDetections, detection_data
from .hyper_parameters import NO_THRESHOLDS
from .step import share_buffers


class EvaluationSteps(LightningModule, TrainsDetections):
    """Validation, test and prediction; :class:`~yolo_lightning.YOLOv5` adds the building and the training."""

    num_classes: int | None
    class_names: list[str] | None
    score_threshold: float | Literal["auto"]
    iou_threshold: float
    evaluation_config: EvaluationConfig
    mean_losses: MeanLosses
    find: Callable[[Batch], tuple[Tensor, Tensor]] | None
    """Finds the objects of a batch, in place of this network alone."""

    def validation_step(self, batch: Batch, batch_index: int) -> dict[str, Tensor]:
        """Add a batch to the mean losses and the metric; return its detections for callbacks."""
        images = normalise(batch.images)
        maps = self.network(images)  # eager, because images have many shapes here
        with torch.autocast(self.device.type, enabled=False):
            room = max(1, int(host_labels(batch).count.sum()))
            loss, parts = self.criterion(maps, *pack_labels(batch.targets, batch.count, room))
        self.mean_losses.add({"loss": loss} | {f"{name}_loss": v for name, v in parts.items()}, len(images))
        detections, counts = detect(self.network.head, maps, batch, **asdict(self.evaluation_config))
        self.metric.update(batch.image_ids, detections, counts, batch.truth, batch.truth_count)
        return {"detections": detections, "counts": counts}

    test_step = validation_step

    def on_validation_start(self) -> None:
        share_buffers(self.trainer.model, in_each_step=False)

    def on_validation_end(self) -> None:
        share_buffers(self.trainer.model, in_each_step=True)

    on_test_start = on_validation_start

    def on_validation_epoch_end(self) -> None:
        """Log the metrics and mean losses of all ranks."""
        stage = "test" if self.trainer.testing else "val"
        result = self.metric.compute()
        weights = getattr(self._data, "image_weights", None)
        if weights and self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            weights.note(self.current_epoch, result["map_per_class"].reshape(-1).tolist())
        values = log_values(result, self.label_names) | self.mean_losses.take(self.device)
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()})
        details = self.metric.details
        if details and details.curves.best_f1 > 0 and not self.trainer.sanity_checking:
            least = self.evaluation_config.score_threshold  # nothing is known of lower scores
            self.hparams["score_thresholds"] = details.curves.best_of_classes().clip(min=least).tolist()
        self.metric.reset()

    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: Batch, batch_index: int) -> tuple[Tensor, Tensor]:
        """Detections of a batch at the thresholds for predicting; see ``evaluation.detect``."""
        if self.find:
            return self.find(batch)
        return detect(
            self.network.head,
            self.network(normalise(batch.images)),
            batch,
            score_threshold=self.least_scores,
            iou_threshold=self.iou_threshold,
            multi_label=False,
        )

    @property
    def least_scores(self) -> float | Tensor:
        """Least score of a detection that predict reports, or float32 (C,), that of each class.

        Raises:
            InputError: ``score_threshold`` is auto, and no validation has found the thresholds.
        """
        if self.score_threshold != "auto":
            return self.score_threshold
        thresholds = self.hparams.get("score_thresholds") or []
        if len(thresholds) != self.num_classes:
            raise InputError(NO_THRESHOLDS)
        return torch.tensor(thresholds, device=self.device)

    @property
    def _data(self) -> DetectionData | None:
        return detection_data(attached_trainer(self))

    @property
    def label_names(self) -> list[str]:
        """Name of each class, or its number if it has no name."""
        return self.class_names or [str(label) for label in range(self.num_classes or 0)]
