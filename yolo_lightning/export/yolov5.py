"""Classic ``.pt``: what ultralytics/yolov5 and the package yolov5 train from, detect with and export.

Such a file pickles modules by the names of the classic code's classes, which is not imported here: empty
classes of these names stand for them. What the modules hold is what the constructors of the classic code set.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ..data.image_size import as_option
from ..errors import InputError
from ..model.architecture import read_architecture, short_name
from ..model.heads import AnchorHead
from .formats import ExportOptions, ExportSource

_COMMON = (
    *("Conv", "DWConv", "DWConvTranspose2d", "GhostConv", "Focus", "Concat", "SPP", "SPPF"),
    *("Bottleneck", "BottleneckCSP", "GhostBottleneck", "C3", "C3TR", "C3Ghost", "C3x"),
    *("TransformerLayer", "TransformerBlock"),
)
"""Blocks that hold the same in the classic ``models.common`` as in ``model/blocks.py``."""
_CLASSES = {name: type(name, (nn.Module,), {"__module__": "models.common"}) for name in _COMMON} | {
    name: type(name, (nn.Module,), {"__module__": "models.yolo"}) for name in ("Detect", "DetectionModel")
}


def write(source: ExportSource, path: Path, options: ExportOptions) -> None:
    """Write a classic checkpoint without an optimizer, as ``strip_optimizer`` of the classic code leaves it.

    Raises:
        InputError: The model has a block that the classic code lacks.
    """
    # Fusing there asks for weights that are not channels last.
    network = copy.deepcopy(source.network).to(memory_format=torch.contiguous_format)
    head = network.head
    assert isinstance(head, AnchorHead)
    blocks = [_as_classic(block, short_name(source.architecture)) for block in network.model[:-1]]
    detect = _detect(head)
    layers: Any = nn.Sequential(*blocks, detect)
    detect.i, detect.f = len(blocks), list(source.network.head_sources)
    read = {number for layer in layers for number in (layer.f if isinstance(layer.f, list) else [layer.f])}
    for layer in layers:
        layer.np = sum(p.numel() for p in layer.parameters())
        layer.type = f"{type(layer).__module__}.{type(layer).__name__}"
    model = _module(
        "DetectionModel",
        yaml=_description(source, head),
        model=layers,
        save=sorted(read - {-1}),
        names=dict(enumerate(source.facts.class_names)),
        inplace=True,
        stride=detect.stride,
        nc=head.num_classes,
    )
    model = model.half() if options.half else model
    content = {"epoch": -1, "best_fitness": None, "model": model, "ema": None, "updates": None}
    settings = {"imgsz": as_option(source.facts.image_size)}
    content |= {"optimizer": None, "opt": settings, "git": None, "date": None}
    with _importable():
        torch.save(content, path)


def _module(name: str, **attributes: Any) -> Any:
    module = _CLASSES[name]()
    for attribute, value in attributes.items():
        setattr(module, attribute, value)
    return module


def _as_classic(block: nn.Module, architecture: str) -> nn.Module:
    """Give a block, and those in it, the classic class of its name; modules of torch stay."""
    for module in block.modules():
        kind = type(module)
        if kind.__module__.startswith("torch.nn."):
            continue
        if kind.__name__ not in _COMMON:
            raise InputError(f"{architecture}: has the block {kind.__name__}, which yolov5 lacks")
        module.__class__ = _CLASSES[kind.__name__]
    return block


def _detect(head: AnchorHead) -> Any:
    levels = len(head.strides)
    detect = _module(
        "Detect",
        nc=head.num_classes,
        no=head.num_classes + 5,
        nl=levels,
        na=head.anchors_per_cell,
        grid=[torch.empty(0) for _ in range(levels)],
        anchor_grid=[torch.empty(0) for _ in range(levels)],
        m=head.m,
        inplace=True,
        stride=torch.tensor(head.strides, dtype=torch.float32),
    )
    detect.register_buffer("anchors", head.anchors)
    return detect


def _description(source: ExportSource, head: AnchorHead) -> dict[str, Any]:
    """The model YAML in the classic format, from which the classic code builds the model that it trains."""
    description, *_ = read_architecture(source.architecture)
    if scales := description.get("scales"):
        depth, width, _ = scales[description.get("scale") or next(iter(scales))]
        description |= {"depth_multiple": depth, "width_multiple": width}
    strides = torch.tensor(head.strides)[:, None, None]
    keys = ("depth_multiple", "width_multiple", "channel_multiple", "activation", "backbone")
    *rows, (sources, *_) = description["head"]
    return {
        "nc": head.num_classes,
        "ch": 3,
        "depth_multiple": 1.0,
        "width_multiple": 1.0,
        **{key: description[key] for key in keys if description.get(key) is not None},
        "anchors": (head.anchors * strides).flatten(1).tolist(),
        "head": [*rows, [sources, 1, "Detect", ["nc", "anchors"]]],
    }


@contextmanager
def _importable() -> Iterator[None]:
    """Let pickle find the classes by their classic names."""
    names = ("models", "models.common", "models.yolo")
    before = {name: sys.modules.get(name) for name in names}
    sys.modules |= {name: ModuleType(name) for name in names}
    for name, kind in _CLASSES.items():
        setattr(sys.modules[kind.__module__], name, kind)
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
