"""The ultralytics trainer at its best settings: images a second."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from ..clock import EpochClock, Measured
from ..options import training_parser
from ..substitutes import substitute
from .pictures import data_of


def measure(arguments: list[str]) -> dict[str, Any]:
    """Train until enough was timed: bf16, compiled, images in memory, no validation before the end.

    Its own choice where it has one is kept (channels last on CUDA); what is faster than its default
    and costs no accuracy is switched on (no deterministic kernels, a worker a core).
    """
    given = training_parser().parse_args(arguments)
    substituted = substitute()
    from ultralytics import YOLO

    on_cuda = given.device == "cuda"
    settings: dict[str, Any] = {
        "imgsz": given.size,
        "batch": given.batch,
        "epochs": 1000,
        "workers": min(16, len(os.sched_getaffinity(0))),
        "device": 0 if on_cuda else "cpu",
        # bf16 is what we train in too; it spares the gradient scaler, and a check that downloads weights.
        "amp": "bf16" if on_cuda else False,
        "compile": not given.toy,
        "cache": "ram",
        "optimizer": "SGD",  # everyone's; its own choice depends on the number of steps
        "deterministic": False,
        "val": False,
        "save": False,
        "plots": False,
        "seed": 0,
    }
    clock = EpochClock(given.seconds, given.device)
    images = parameters = 0

    def stop(trainer: Any) -> None:
        nonlocal images, parameters
        images = len(trainer.train_loader.dataset)
        parameters = sum(p.numel() for p in trainer.model.parameters())
        clock.stop()
        if clock.has_enough:
            raise Measured

    model = YOLO(f"{given.architecture}.yaml")
    model.add_callback("on_train_epoch_start", clock.start)
    model.add_callback("on_train_epoch_end", stop)
    with contextlib.suppress(Measured):
        model.train(
            data=str(data_of(given.work) / "data.yaml"),
            project=str(given.work / "runs" / "ultralytics"),
            exist_ok=True,
            **settings,
        )
    return {
        **clock.reading(images),
        "settings": settings,
        "substituted": substituted,
        "head": "its yolov5 files build the anchor-free u head, which is another model than the classic one",
        "parameters": parameters,
    }
