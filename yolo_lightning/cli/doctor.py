"""``yolo-lightning doctor``: measures a training on the user's data and machine, and says what to change."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import torch

from ..data.images.choose_cache import CachePlan
from ..data.module import DetectionDataModule
from ..performance.doctor.candidates import StepShape
from ..performance.doctor.examination import Case, Examination
from ..performance.doctor.report import Report
from ..system.cores import usable_cores
from ..training.module import YOLOv5
from ..training.precision import Precision, default_precision

NOMINAL_LABELS = 32


def diagnose(
    module: YOLOv5,
    datamodule: DetectionDataModule,
    precision: Precision | None,
    device: str,
    seconds: float = 60.0,
    *,
    announce: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> Report:
    """Measure loader, step, copy, and loader and step together, as configured and as seems better.

    Nothing of the user's is changed or built.

    Args:
        module: as for ``fit``; its network is not built.
        datamodule: as for ``fit``; no cache is built.
        precision: as ``trainer.precision``; None follows the rule of ``fit``.
        device: of the training: cpu, cuda, cuda:1.
        seconds: about how long it may take; compiling the augmentation, where that is new, comes on top.
        announce: is told what is being measured.

    Raises:
        InputError: the data or an option is wrong.
    """
    datamodule.build_indices("fit")
    train, val = datamodule.index("train"), datamodule.index("val")
    cores = usable_cores()
    shape = StepShape(
        module.architecture,
        len(datamodule.class_names),
        datamodule.image_size,
        datamodule.batch_size,
        NOMINAL_LABELS,
        device,
        module.augmentation_config,
    )
    case = Case(
        shape=shape,
        precision=precision or default_precision(device)[0],
        channels_last=module.channels_last,
        compile_option=module.compile_option,
        train=train,
        most_labels=max(train.most_labels, val.most_labels),
        cache_plan=CachePlan(
            {"train": train, "val": val}, shape.image_size, torch.device(device), cores, datamodule.cache
        ),
        num_workers=datamodule.num_workers,
    )
    return Examination(case, announce, seconds).run()


def show(report: Report, as_json: bool = False) -> None:
    """Print a report: a table, or for machines one JSON object."""
    print(json.dumps(report.as_json(), indent=1) if as_json else report)
