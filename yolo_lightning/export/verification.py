"""Verification of an export: its detections, mAP and latency against those of the model that it came from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.annotations.index import DatasetIndex
from ..data.batch import Batch, label_capacity
from ..data.image_size import Size
from ..data.letterbox import from_letterbox
from ..data.loading.dataset import DetectionDataset, collate
from ..errors import InputError
from ..evaluation.detect import non_max_suppression
from ..evaluation.mean_average_precision import CocoMeanAveragePrecision
from ..inference.trained_model import TrainedModel
from .formats import ExportOptions

IMAGES = 16
"""Images whose detections are compared."""
_LEAST_SCORE = 0.01
"""Least score of detections that are compared, if the model does not suppress them itself."""
_NEAR_PX = 8.0
"""Largest difference of coordinates between a box and the one that stands for it, in px of the input."""
_TIMED = 10
"""Calls whose median is the latency."""


@dataclass(frozen=True)
class Tolerance:
    """Largest differences of an export that is right.

    Args:
        score: Difference of two scores.
        box_px: Difference of two coordinates, in px of the input.
        lost: Share of the detections that are missing or additional.
    """

    score: float
    box_px: float
    lost: float


FLOAT, HALF = Tolerance(1e-4, 1e-2, 0.0), Tolerance(2e-2, 8.0, 0.05)
"""Tolerances by precision. INT8 changes single boxes visibly, and is judged by what it loses of the mAP."""
MAP_LOSS = 0.01
"""Largest loss of mAP with INT8."""


@dataclass(frozen=True)
class Comparison:
    """Differences of an export from its source."""

    detections: int  # of the source
    lost: int  # detections of the source without one in the export, and the other way round
    score: float  # largest difference of scores
    box_px: float  # largest difference of coordinates, in px of the input

    def is_within(self, tolerance: Tolerance) -> bool:
        """True if no difference is above the tolerance."""
        share = self.lost / max(1, self.detections)
        return self.score <= tolerance.score and self.box_px <= tolerance.box_px and share <= tolerance.lost


def tolerance_of(options: ExportOptions) -> Tolerance:
    """The tolerance of an export."""
    return HALF if options.half or options.int8 else FLOAT


def letterboxed(index: DatasetIndex, image_size: Size, batch_size: int) -> Iterator[Batch]:
    """Images of an index on canvases of one size, as an export takes them, with their annotations."""
    dataset = DetectionDataset(index, image_size, label_capacity(index.most_labels), train=False)
    dataset.canvases = np.full((len(index), 2), image_size)
    for first in range(0, len(index), batch_size):
        yield collate([dataset[i] for i in range(first, min(first + batch_size, len(index)))])


def as_input(batch: Batch) -> Tensor:
    """Images of a batch as the input of a model, float32 (B, 3, H, W) in 0..1."""
    return batch.images.float().div(255).contiguous()


def compare(
    source: TrainedModel, exported: TrainedModel, batches: Sequence[Batch], options: ExportOptions
) -> Comparison:
    """Compare detections on images, after the same suppression."""
    threshold = options.score_threshold if options.nms else _LEAST_SCORE
    margin = tolerance_of(options).score
    total, lost, score, box_px = 0, 0, 0.0, 0.0
    for batch in batches:
        pairs = (_detections(model, batch, threshold, options)[0] for model in (source, exported))
        for wanted, found in zip(*pairs, strict=True):
            pairing = _pair(wanted, found)  # (n,), -1: none
            gone = wanted[(pairing < 0) & (wanted[:, 4] > threshold + margin)]
            extra = found[(_pair(found, wanted) < 0) & (found[:, 4] > threshold + margin)]
            total, lost = total + int((wanted[:, 4] > 0).sum()), lost + len(gone) + len(extra)
            if len(same := wanted[pairing >= 0]):
                difference = (same - found[pairing[pairing >= 0]]).abs()
                score = max(score, float(difference[:, 4].max()))
                box_px = max(box_px, float(difference[:, :4].max()))
    return Comparison(total, lost, score, box_px)


def _detections(
    model: TrainedModel, batch: Batch, threshold: float, options: ExportOptions, multi_label: bool = False
) -> tuple[Tensor, Tensor]:
    boxes, scores = model(as_input(batch))
    return non_max_suppression(
        boxes.cpu(),
        scores.cpu(),
        threshold,
        options.iou_threshold,
        max_detections=options.max_detections,
        multi_label=multi_label,
    )


def _pair(rows: Tensor, others: Tensor) -> Tensor:
    """Position among ``others`` of the detection that is each of ``rows``, int64 (n,); -1: there is none.

    Rows are (n, 6) x1, y1, x2, y2, score, class; those with a score of zero are padding. It is the nearest of
    the same class.
    """
    apart = torch.cdist(rows[:, :4], others[:, :4], p=torch.inf)  # px
    is_other = (rows[:, None, 5] != others[None, :, 5]) | (others[None, :, 4] == 0)
    apart[is_other] = torch.inf
    distance, position = apart.min(dim=1)
    return torch.where(distance <= _NEAR_PX, position, -1)


def mean_average_precision(model: TrainedModel, index: DatasetIndex, options: ExportOptions) -> float:
    """The mAP 50-95 of a model on images of one size, 0..1; with suppression inside, at its thresholds.

    ``validate`` evaluates on rectangles, whose mAP differs a little.
    """
    metric = CocoMeanAveragePrecision(len(index.class_names))
    inside = options if options.nms else ExportOptions(options.image_size, iou_threshold=0.6)
    for batch in letterboxed(index, options.image_size, 8):
        threshold = options.score_threshold if options.nms else 0.001
        found, counts = _detections(model, batch, threshold, inside, multi_label=not options.nms)
        original = from_letterbox(found[..., :4], batch.letterbox, batch.original_sizes)
        rows = torch.cat((original, found[..., 4:]), dim=-1)
        metric.update(batch.image_ids, rows, counts, batch.truth, batch.truth_count)
    return float(metric.compute()["map"])


def latency_ms(model: TrainedModel, options: ExportOptions) -> float:
    """Median time of a call with one batch on this machine, in ms."""
    images = options.example()[: options.batch_size]
    times = []
    for _ in range(_TIMED + 2):
        before = time.perf_counter()
        model(images)[0].cpu()
        times.append(time.perf_counter() - before)
    return statistics.median(times[2:]) * 1e3


def size_mb(path: Path) -> float:
    """Size of a file, or of all files in a folder, in MB."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def refuse_other_classes(index: DatasetIndex, count: int) -> None:
    """Refuse data that has another number of classes than the ``count`` of a model.

    Raises:
        InputError: It has.
    """
    if len(index.class_names) != count:
        raise InputError(
            f"{index.source}: has {len(index.class_names)} classes and the model {count}; "
            "give the data set that it was trained on as --data.root"
        )
