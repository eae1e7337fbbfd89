"""Files of ``validate`` and ``test`` from which ``report`` and ``compare`` read, as those of a fit."""

from __future__ import annotations

import json
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from ...evaluation.image_matches import MATCHES
from ...evaluation.precision_recall import describe_evaluation
from ...runs.directory import METRICS
from ...runs.record import metrics_as_csv
from ...system.files import write_whole
from ...training.contracts import detection_module
from ..pictures.plots import EVALUATION


class EvaluationRecord(Callback):
    """Writes ``metrics.csv`` with one row, ``evaluation.json`` and ``matches.safetensors``.

    Args:
        directory: the run directory.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = detection_module(pl_module)
        if not trainer.is_global_zero or module is None or (details := module.metric.details) is None:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        write_whole(self.directory / METRICS, metrics_as_csv([{"epoch": 0.0, "step": 0.0, **metrics}]))
        described = describe_evaluation(details, module.label_names, epoch=0)
        write_whole(self.directory / EVALUATION, json.dumps(described))
        write_whole(self.directory / MATCHES, details.by_image.to_bytes())

    on_test_end = on_validation_end
