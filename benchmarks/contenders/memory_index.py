"""What the index of a large data set holds in memory."""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from yolo_lightning.data.annotations.coco import CocoReader
from yolo_lightning.data.annotations.index import DatasetIndex

from .process_memory import status_mb
from .reading import print_reading


def main() -> None:
    """Read a COCO JSON and weigh what is kept of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    print_reading(**measure(parser.parse_args().root))


def measure(root: Path) -> dict[str, Any]:
    """MB of the index's arrays and bytes as ``value``, and by how much reading it made the process larger.

    Args:
        root: of a COCO data set with a train split.
    """
    before = _resident_mb()
    begin = time.perf_counter()
    index = CocoReader(root / "annotations" / "instances_train.json", "train", root=root).read()
    seconds = time.perf_counter() - begin
    peak = status_mb("self", "VmHWM")
    return {
        "value": index_bytes(index) / 1e6,
        "images": len(index),
        "boxes": len(index.boxes),
        "resident_growth_mb": _resident_mb() - before,
        "peak_growth_while_reading_mb": peak - before,
        "seconds_to_read": seconds,
    }


def index_bytes(index: DatasetIndex) -> int:
    """Bytes of everything that grows with the data set."""
    fields = vars(index).values()
    arrays = sum(value.nbytes for value in fields if isinstance(value, np.ndarray))
    return arrays + sum(len(value) for value in fields if isinstance(value, bytes))


def _resident_mb() -> float:
    """Resident set once everything that is free has gone back to the system."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return status_mb("self", "VmRSS")


if __name__ == "__main__":
    main()
