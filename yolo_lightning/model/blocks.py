"""The door to ultralytics: its blocks, its YAML parser and its model files, and nothing else of it.

Importing ultralytics has side effects (it looks for a network, may install packages, logs, and sets
the number of OpenMP threads to one for the whole process), so it happens here, with those held back.
"""

from __future__ import annotations

import os
from pathlib import Path

_HELD_BACK = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
for _name, _value in _HELD_BACK.items():
    os.environ.setdefault(_name, _value)
_threads = os.environ.get("OMP_NUM_THREADS")

import ultralytics  # noqa: E402
from ultralytics.nn.modules import SPPF, Detect  # noqa: E402
from ultralytics.nn.tasks import parse_model  # noqa: E402

if _threads is None:
    os.environ.pop("OMP_NUM_THREADS", None)  # or every process we start would run on one thread

MODEL_FILES = Path(ultralytics.__file__).parent / "cfg" / "models" / "v5"
"""Folder of ``yolov5.yaml`` and ``yolov5-p6.yaml``, whose layers before the head are the classic ones."""

__all__ = ["MODEL_FILES", "SPPF", "Detect", "parse_model"]
