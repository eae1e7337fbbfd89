"""Run directories as a fit leaves them, for tests of what reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from yolo_lightning.runs.record import metrics_as_csv

NASTY = '<img src=x onerror=alert(1)> & "it\'s"'
"""A name of a class that would be markup."""


def rows(scores: list[float], classes: tuple[str, ...] = ("cat", "dog"), speed: float = 50.0) -> list[Any]:
    """One row an epoch, with these ``val/map``."""
    return [
        {
            "epoch": float(epoch),
            "step": 4.0 * (epoch + 1),
            "val/map": score,
            "val/map_50": min(1.0, score * 1.5),
            "val/map_small": -1.0,
            **{f"val/map_class/{name}": score * (i + 1) / 2 for i, name in enumerate(classes)},
            "val/box_loss": 0.2 - 0.01 * epoch,
            "train/box_loss": 0.3 - 0.01 * epoch,
            "perf/images_per_second": speed + epoch,
            "perf/step_ms": 20.0,
            "lr/weight": 0.01 * (1 - epoch / 10),
            "wall_seconds": 10.0 * (epoch + 1),
        }
        for epoch, score in enumerate(scores)
    ]


def make_run(
    directory: Path,
    scores: list[float] | None = None,
    classes: tuple[str, ...] = ("cat", "dog"),
    whole: bool = True,
    **options: Any,
) -> Path:
    """A run directory; with ``whole`` False it has ``metrics.csv`` alone.

    Options named ``model__architecture`` change ``model.architecture``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    scores = scores or [0.1, 0.4, 0.3]
    (directory / "metrics.csv").write_text(metrics_as_csv(rows(scores, classes)))
    if not whole:
        return directory
    config: dict[str, Any] = {
        "seed_everything": 0,
        "trainer": {"max_epochs": 5, "default_root_dir": str(directory)},
        "model": {"architecture": "yolov5n", "optimizer": {"learning_rate": 0.01}, "class_names": [*classes]},
        "data": {"root": "/data/pets", "image_size": 320, "batch_size": 16},
        "run_name": directory.parent.name,
    }
    for name, value in options.items():
        *folders, leaf = name.split("__")
        inner = config
        for folder in folders:
            inner = inner[folder]
        inner[leaf] = value
    (directory / "config.yaml").write_text("# lightning\n" + yaml.safe_dump(config))
    write(directory / "environment.json", environment())
    write(directory / "evaluation.json", evaluation(classes))
    seconds = {"start_up": 5.04, "compilation": 3.04, "step": 20.04, "validation": 1.04, "other": 0.84}
    write(directory / "time_budget.json", {"wall_seconds": 30.0, "seconds": seconds, "processes": 2})
    write(directory / "gpu_health.json", {"period_seconds": 1.0, "devices": [gpu()]})
    (directory / "checkpoints").mkdir(exist_ok=True)
    for name in ("best", "last"):
        (directory / "checkpoints" / f"{name}.ckpt").write_bytes(b"weights")
    (directory / "pictures").mkdir(exist_ok=True)
    for name in ("labels.png", "worst.jpg"):
        cv2.imwrite(str(directory / "pictures" / name), np.zeros((8, 8, 3), np.uint8))
    return directory


def environment() -> dict[str, Any]:
    """As ``RunRecorder`` writes it."""
    return {
        "command": ["yolo-lightning", "fit", "--data.root", "my pets"],
        "started": "2030-01-02T03:04:05+0000",
        "packages": {"torch": "2.9.0", "lightning": "2.6.6"},
        "cpu_count": 8,
        "gpus": [],
        "cuda": None,
        "precision": "32-true",
        "world_size": 1,
    }


def evaluation(classes: tuple[str, ...]) -> dict[str, Any]:
    """As the curves of a validation are kept; one confidence in four, and class i is found i + 1 times."""
    number = len(classes)
    axis = [0.0, 0.25, 0.5, 0.75, 1.0]
    confusion = [[float(i + 1) if i == j else 0.0 for j in range(number + 1)] for i in range(number + 1)]
    confusion[number][0] = 7.0  # of the first class, missed
    confusion[number][number] = 0.0
    return {
        "epoch": 1,
        "class_names": [*classes],
        "confidence": axis,
        "precision": [[0.5, 0.6, 0.71, 0.8, 0.9]] * number,
        "recall": [[0.9, 0.8, 0.72, 0.4, 0.1]] * number,
        "f1": [[0.6, 0.65, 0.73, 0.5, 0.2]] * number,
        "pr_recall": axis,
        "pr_precision": [[1.0, 0.9, 0.8, 0.7, 0.0]] * number,
        "ap_50": [0.61] * number,
        "ap": [0.41] * number,
        "confusion": confusion,
        "best_f1": {"confidence": 0.5, "f1": 0.73},
    }


def gpu() -> dict[str, Any]:
    """As ``GpuHealth`` writes what it saw of a GPU."""
    return {
        "rank": 0, "index": 3, "name": "Fake GPU", "seconds": 20.0, "lost_is_upper_bound": False,
        "power_w": {"mean": 512.26, "min": 80.0, "max": 1688.0, "readings": 20},
        "throttled_seconds_by_reason": {}, "faults": ["GPU 3: clocks lowered by heat"],
    }  # fmt: skip


def write(path: Path, content: Any) -> None:
    """Write JSON."""
    path.write_text(json.dumps(content))
