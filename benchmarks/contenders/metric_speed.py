"""Seconds and memory of mean average precision over many images."""

from __future__ import annotations

import sys
import time
from typing import Any

from yolo_lightning.evaluation.mean_average_precision import CocoMeanAveragePrecision

from .detections import make_images
from .process_memory import restart_peak, status_mb
from .reading import print_reading

_BATCH = 32


def main() -> None:
    """Arguments: images, detections an image, classes."""
    print_reading(**measure(*map(int, sys.argv[1:4])))


def measure(count: int, detections: int, classes: int) -> dict[str, Any]:
    """Seconds of all updates and ``compute`` as ``value``, and the growth of memory at its highest, in MB."""
    images = make_images(count, detections, classes)
    metric = CocoMeanAveragePrecision(classes)
    before = status_mb("self", "VmRSS")
    restart_peak()
    begin = time.perf_counter()
    for first in range(0, count, _BATCH):
        metric.update(*(tensor[first : first + _BATCH] for tensor in images))
    updated = time.perf_counter()
    result = metric.compute()
    end = time.perf_counter()
    return {
        "value": end - begin,
        "compute_seconds": end - updated,
        "peak_growth_mb": status_mb("self", "VmHWM") - before,
        "map": float(result["map"]),
    }


if __name__ == "__main__":
    main()
