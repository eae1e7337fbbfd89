"""Blocks, YAML parser and model files of ultralytics.

Importing ultralytics has side effects on the whole process: it looks for a network, may install packages,
logs, sets the number of OpenMP threads to one, and replaces functions of OpenCV, Pillow and torch. This file
imports it and prevents or undoes that; no other file of the package imports it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import torch
from PIL import Image
from torch import nn

_HELD_BACK = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
for _name, _value in _HELD_BACK.items():
    os.environ.setdefault(_name, _value)
_threads = os.environ.get("OMP_NUM_THREADS")
_replaced = [(cv2, "imread"), (cv2, "imwrite"), (cv2, "imshow"), (Image, "open"), (torch, "save")]
_originals = [(module, name, getattr(module, name)) for module, name in _replaced if hasattr(module, name)]

import ultralytics  # noqa: E402
from ultralytics.nn import modules, tasks  # noqa: E402
from ultralytics.nn.modules import SPPF, Conv, Detect, block  # noqa: E402

if _threads is None:
    os.environ.pop("OMP_NUM_THREADS", None)  # or every child process would run on one thread

for _module, _name, _original in _originals:
    setattr(_module, _name, _original)  # theirs may install a package if a file is not an image

MODEL_FILES = Path(ultralytics.__file__).parent / "cfg" / "models" / "v5"
"""Folder of ``yolov5.yaml`` and ``yolov5-p6.yaml``, whose layers before the head are the classic ones."""
PARSER_VARIABLES = {*tasks.parse_model.__code__.co_varnames, *tasks.parse_model.__code__.co_cellvars}
"""Names that ultralytics' parser replaces among the arguments of a layer by variables of its own."""

__all__ = ["MODEL_FILES", "PARSER_VARIABLES", "SPPF", "Detect", "build_layers", "build_model", "is_block"]


class Bottleneck(block.Bottleneck):
    """The bottleneck of classic YOLOv5: its first convolution is 1x1, ultralytics' 3x3."""

    def __init__(
        self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5, k: Any = (1, 3)
    ) -> None:
        super().__init__(c1, c2, shortcut, g, k, e)


def is_block(name: str) -> bool:
    """True if this names a module of torch.nn (``nn.Upsample``) or a block of ultralytics (``C3``)."""
    home, namespace = (nn, nn) if name.startswith("nn.") else (modules, tasks)
    kind = vars(namespace).get(name.removeprefix("nn."))
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)) or kind is modules.TorchVision:
        return False  # TorchVision downloads weights
    return kind.__module__.startswith(f"{home.__name__}.")


def build_layers(
    description: dict[str, Any], activation: nn.Module | None
) -> tuple[nn.Sequential, list[int]]:
    """Layers of a checked description, and the numbers of those that others read.

    Args:
        description: content of a model YAML (:mod:`.architecture`).
        activation: module for all convolutions; None for SiLU. The parser would evaluate its text.
    """
    with _parser_settings(description, activation):
        return tasks.parse_model({**copy.deepcopy(description), "activation": None}, ch=3, verbose=False)


def build_model(description: dict[str, Any], activation: nn.Module | None, num_classes: int) -> Any:
    """The model of ultralytics with the layers of a checked description and the head ``Detect``."""
    with _parser_settings(description, activation):
        model: Any = tasks.DetectionModel(
            {**copy.deepcopy(description), "activation": None, "nc": num_classes}, verbose=False
        )
    model.yaml["activation"] = description.get("activation")
    return model


@contextmanager
def _parser_settings(description: dict[str, Any], activation: nn.Module | None) -> Iterator[None]:
    """Set the activation, and what the parser does not know of the classic code.

    That is ``channel_multiple``, and the bottleneck of a YAML with anchors: by itself, and in BottleneckCSP.
    """
    multiple, is_classic = description.get("channel_multiple"), description.get("anchors") is not None
    default, make_divisible, bottleneck = Conv.default_act, tasks.make_divisible, block.Bottleneck
    Conv.default_act = activation or default  # type: ignore[assignment]
    if multiple:
        tasks.make_divisible = lambda x, divisor: make_divisible(x, multiple)
    namespaces: tuple[Any, ...] = (tasks, block)
    for namespace in namespaces if is_classic else ():
        namespace.Bottleneck = Bottleneck
    try:
        yield
    finally:
        Conv.default_act, tasks.make_divisible = default, make_divisible
        for namespace in namespaces:
            namespace.Bottleneck = bottleneck
