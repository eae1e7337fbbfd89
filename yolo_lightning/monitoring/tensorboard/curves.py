"""Curves and confusion matrix of each validation, in the loggers; those of the best epoch in files."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch.utils.tensorboard import SummaryWriter

from ...evaluation.image_matches import MATCHES
from ...evaluation.precision_recall import EvaluationDetails, counts_at, describe_evaluation
from ...runs.best_epoch import MONITOR, is_better
from ...system.background import BackgroundQueue
from ...system.files import write_whole
from ...system.lightning_internals import logging_step
from ...training.contracts import TrainsDetections, detection_module
from ..loggers import log_picture, picture_loggers
from ..pictures.plots import EVALUATION, Evaluation, plot_evaluation, to_pixels
from .writer import writer_of

_THRESHOLDS = np.linspace(0.0, 1.0, 101)
"""TensorBoard assumes even spacing, and fails with more than 127."""
_MOST_CLASSES = 100
"""Classes with curves of their own in TensorBoard: those with most annotations."""
_SHARE = 0.005
"""Share of the time that drawing may take."""


class EvaluationCurves(Callback):
    """Logs curves after each validation, and writes ``evaluation.json`` and matches for the best epoch.

    Loggers that take pictures get the plots ``curves/precision_recall``, ``curves/f1`` and
    ``curves/confusion``; TensorBoard also precision and recall with their counts, for each class and for all
    together (``pr/…``, shown by its plugin).
    Plots take some tenths of a second of a core. They are skipped when drawing would take more than half a
    percent of the time, but the last validation is always drawn.

    ``evaluation.json`` (see ``describe_evaluation``) and ``matches.safetensors`` (see ``ImageMatches``)
    belong to the best epoch, like ``best.ckpt``: the first of equals, by the last validation of each epoch.
    Checkpoints contain the best value of the monitor.

    The first process does all of this in the background, from the module's ``metric.details``.
    """

    def __init__(self, directory: str | Path, queue: BackgroundQueue, monitor: str = MONITOR) -> None:
        self.path = Path(directory) / EVALUATION
        self.monitor = monitor
        self._queue = queue
        self._score = self._best = -1.0
        self._latest: EvaluationDetails | None = None
        """Newest validation of this epoch."""
        self._left: dict[str, tuple[Any, ...]] = {}
        """Newest task to write and to draw, if the queue was full or drawing was not due."""
        self._next_drawing = -np.inf
        """Time of the next drawing, by the monotonic clock; infinite during a drawing."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.path.is_file():  # a run that continues in another directory
            self._best = -1.0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = detection_module(pl_module)
        if trainer.sanity_checking or not trainer.is_global_zero or not module:
            return
        details = module.metric.details
        if details is None:
            return
        self._latest, self._score = details, float(trainer.callback_metrics.get(self.monitor, -1.0))
        evaluation = (details, module.label_names, logging_step(trainer))
        if writer := writer_of(trainer):
            self._queue.submit(write_pr_curves, writer, *evaluation)
        if not (loggers := picture_loggers(trainer)):
            return
        self._left["draw"] = (self._draw, loggers, *evaluation)
        if time.monotonic() >= self._next_drawing:
            due, self._next_drawing = self._next_drawing, np.inf
            if not self._submit("draw"):
                self._next_drawing = due

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        details, self._latest = self._latest, None
        if details is not None and is_better(self._score, self._best, self.monitor):
            self._best = self._score
            names = cast(TrainsDetections, pl_module).label_names
            self._left["write"] = (self._write, details, names, trainer.current_epoch)
            self._submit("write")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._left:
            self._queue.drain()  # make room, and let no older file overwrite the newest
        for name in [*self._left]:
            self._submit(name)

    def _submit(self, name: str) -> bool:
        """Hand a task to the queue; False and left if the queue is full."""
        is_taken = self._queue.submit(*self._left[name])
        if is_taken:
            del self._left[name]
        return is_taken

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._queue.drain()  # the writer is closed next

    def _write(self, details: EvaluationDetails, names: Sequence[str], epoch: int) -> None:
        write_whole(self.path, json.dumps(describe_evaluation(details, names, epoch)))
        write_whole(self.path.with_name(MATCHES), details.by_image.to_bytes())

    def _draw(
        self, loggers: list[Logger], details: EvaluationDetails, names: Sequence[str], step: int
    ) -> None:
        begin = time.thread_time()
        try:
            write_plots(loggers, details, names, step)
        finally:
            self._next_drawing = time.monotonic() + (time.thread_time() - begin) / _SHARE

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "monitor": self.monitor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict.get("monitor", MONITOR) == self.monitor:
            self._best = state_dict["best"]


def write_pr_curves(
    writer: SummaryWriter, details: EvaluationDetails, class_names: Sequence[str], step: int
) -> None:
    """Log precision and recall at 101 thresholds, with their counts, for TensorBoard's plugin.

    The tag of each class that has annotations is ``pr/<name>``.
    """
    counts = counts_at(details, _THRESHOLDS)  # (4, C, T)
    by_number = np.argsort(-details.truths, kind="stable")[:_MOST_CLASSES]
    tables = {f"pr/{class_names[label]}": counts[:, label] for label in by_number if details.truths[label]}
    if len(tables) > 1:
        tables = {"pr/all classes together": counts.sum(axis=1), **tables}
    for tag, table in tables.items():
        tp, fp, tn, fn = table
        # Without any detection, none is wrong.
        precision = np.where(tp + fp > 0, tp / np.maximum(tp + fp, 1), 1.0)
        writer.add_pr_curve_raw(tag, tp, fp, tn, fn, precision, tp / (tp + fn), step, len(_THRESHOLDS))


def write_plots(
    loggers: list[Logger], details: EvaluationDetails, class_names: Sequence[str], step: int
) -> None:
    """Log the plots of a validation."""
    found = Evaluation.from_json(describe_evaluation(details, class_names, epoch=0))
    for name, figure in plot_evaluation(found).items():
        log_picture(loggers, f"curves/{name}", to_pixels(figure), step)
