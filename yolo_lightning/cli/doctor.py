"""``yolo-lightning doctor``: measures a training on the user's data and machine, and says what to change."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import torch

from ..data.images.choose_cache import CachePlan
from ..data.module import DetectionDataModule
from ..performance.auto.choose import make_wish
from ..performance.auto.for_all_ranks import NOMINAL_LABELS
from ..performance.auto.store import Store
from ..performance.doctor.candidates import StepShape
from ..performance.doctor.examination import Case, Examination
from ..performance.doctor.report import Report
from ..system.cores import usable_cores
from ..training.module import YOLOv5


def diagnose(
    module: YOLOv5,
    datamodule: DetectionDataModule,
    precision: str | None,
    device: str,
    seconds: float = 60.0,
    *,
    store: Store | None = None,
    announce: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> Report:
    """Measure loader, step, copy, and loader and step together, as configured and as seems better.

    Nothing of the user's is changed or built; what was measured of the steps is kept for ``auto``.

    Args:
        module: as for ``fit``; its network is not built.
        datamodule: as for ``fit``; no cache is built.
        precision: as ``trainer.precision``; None leaves it to be measured.
        device: of the training: cpu, cuda, cuda:1.
        seconds: about how long it may take; compiling the augmentation, where that is new, comes on top.
        store: where results are kept; the user's if left out.
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
        wish=make_wish(precision, "auto" if module.channels_last else False, module.compile_option),
        compile_option=module.compile_option,
        train=train,
        most_labels=max(train.most_labels, val.most_labels),
        cache_plan=CachePlan(
            {"train": train, "val": val}, shape.image_size, torch.device(device), cores, datamodule.cache
        ),
        num_workers=datamodule.num_workers,
    )
    return Examination(case, store or Store(), announce, seconds).run()


def show(report: Report, as_json: bool = False) -> None:
    """Print a report: a table, or for machines one JSON object."""
    print(json.dumps(report.as_json(), indent=1) if as_json else report)
