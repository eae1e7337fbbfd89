"""Blocks, YAML parser and model files of ultralytics.

Importing ultralytics has side effects on the whole process: it looks for a network, may install packages,
logs, sets the number of OpenMP threads to one, and replaces functions of OpenCV, Pillow and torch. This file
imports it and prevents or undoes that; no other file of the package imports it.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import torch
from PIL import Image

_HELD_BACK = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
for _name, _value in _HELD_BACK.items():
    os.environ.setdefault(_name, _value)
_threads = os.environ.get("OMP_NUM_THREADS")
_replaced = [(cv2, "imread"), (cv2, "imwrite"), (cv2, "imshow"), (Image, "open"), (torch, "save")]
_originals = [(module, name, getattr(module, name)) for module, name in _replaced if hasattr(module, name)]

import ultralytics  # noqa: E402
from ultralytics.nn.modules import SPPF, Detect  # noqa: E402
from ultralytics.nn.tasks import parse_model  # noqa: E402

if _threads is None:
    os.environ.pop("OMP_NUM_THREADS", None)  # or every child process would run on one thread

for _module, _name, _original in _originals:
    setattr(_module, _name, _original)  # theirs may install a package if a file is not an image

MODEL_FILES = Path(ultralytics.__file__).parent / "cfg" / "models" / "v5"
"""Folder of ``yolov5.yaml`` and ``yolov5-p6.yaml``, whose layers before the head are the classic ones."""

__all__ = ["MODEL_FILES", "SPPF", "Detect", "parse_model"]
