"""``yolo-lightning doctor``: measures a training on the user's data and machine, and says what to change."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import torch

from ..data.module import DetectionDataModule
from ..performance.doctor.examination import Examination
from ..performance.doctor.report import Report
from ..training.ema import ExponentialMovingAverage
from ..training.module import YOLOv5
from ..training.precision import Precision, default_precision


def diagnose(
    module: YOLOv5,
    datamodule: DetectionDataModule,
    precision: Precision | None,
    device: str,
    seconds: float = 60.0,
    *,
    ema: ExponentialMovingAverage | None = None,
    announce: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> Report:
    """Measure loader, step, copy, and loader and step together, as configured and as seems better.

    The step is the real one: a Trainer trains copies of the module for a few batches. The user's module is
    not changed, and no cache is built.

    Args:
        module: module as for ``fit``.
        datamodule: data module as for ``fit``.
        precision: as ``trainer.precision``; None follows the rule of ``fit``.
        device: device of the training: cpu, cuda, cuda:1.
        seconds: duration, about; compiling comes on top.
        ema: averaging of the weights; that of ``fit`` by default if left out.
        announce: called with a line before each measurement.

    Raises:
        InputError: the data or an option is wrong.
    """
    datamodule.build_indices("fit")
    precision = precision or default_precision(device)[0]
    ema = ema or ExponentialMovingAverage()
    return Examination(module, datamodule, precision, torch.device(device), ema, announce, seconds).run()


def show(report: Report, as_json: bool = False) -> None:
    """Print a report: a table, or for machines one JSON object."""
    print(json.dumps(report.as_json(), indent=1) if as_json else report)
