"""ultralytics/yolov5 7.0.14 at its best settings: images a second."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import numpy as np

from ..clock import EpochClock, Measured
from ..options import training_parser
from ..pictures import CLASSES
from ..substitutes import substitute
from .pictures import data_of


def measure(arguments: list[str]) -> dict[str, Any]:
    """Train until enough was timed: fp16 autocast, images in memory, a worker a core, no validation."""
    given = training_parser().parse_args(arguments)
    data = data_of(given.work)
    images = sum(1 for _ in (data / "images" / "train").iterdir())
    settings = [
        *("--cfg", f"{given.architecture}.yaml"),
        *("--imgsz", str(given.size)),
        *("--batch-size", str(given.batch)),
        *("--epochs", "1000"),
        *("--workers", str(min(16, len(os.sched_getaffinity(0))))),
        *("--device", "0" if given.device == "cuda" else "cpu"),
        *("--cache", "ram"),
        *("--nosave", "--noplots", "--noautoanchor", "--exist-ok"),
    ]
    places = ["--weights", "", "--data", str(data / "data.yaml")]
    places += ["--project", str(given.work / "runs" / "yolov5")]
    sys.argv = ["train", *places, *settings]
    substituted = substitute(outdated=("huggingface_hub",))  # it wants a release before 0.25
    from yolov5 import train  # type: ignore[import-not-found]  # from a wheel that was carried
    from yolov5.utils.callbacks import Callbacks  # type: ignore[import-not-found]

    nothing_found = (0.0,) * 7, np.zeros(CLASSES), np.zeros(CLASSES), None
    train.validate.run = lambda *_, **__: nothing_found  # 7.0.14 fails with --noval
    train.attempt_download_from_hub = lambda *_, **__: None  # it looks for weights although none are named
    if given.device == "cuda":
        train.check_amp = lambda model: True  # its check downloads weights, and says no when it cannot
    clock, callbacks = EpochClock(given.seconds, given.device), Callbacks()

    def stop(**_: Any) -> None:
        clock.stop()
        if clock.has_enough:
            raise Measured

    callbacks.register_action("on_train_epoch_start", callback=clock.start)
    callbacks.register_action("on_train_epoch_end", callback=stop)
    with contextlib.suppress(Measured):
        train.main(train.parse_opt(), callbacks)
    return {
        **clock.reading(images),
        "settings": " ".join(settings),
        "amp": given.device == "cuda",
        "substituted": substituted,
    }
