"""Networks, built from the name of a model or a YOLOv5-style YAML."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import Tensor, nn

from ..errors import InputError
from .blocks import MODEL_FILES, SPPF, parse_model
from .heads import HEADS, P5_ANCHORS_PX, P6_ANCHORS_PX, Head

_NAME = re.compile(r"yolov5([nsmlx])(6?)(u?)")
_ACTIVATION = re.compile(r"(?:torch\.)?nn\.(\w+)\(([\w=., ]*)\)")
NAMES = (
    "yolov5n|s|m|l|x (classic), yolov5n6|s6|m6|l6|x6 (classic P6), yolov5nu|su|mu|lu|xu (anchor-free), "
    "or the path of a YOLOv5-style YAML"
)


class DetectionNetwork(nn.Module):
    """Chain of blocks with skips, and a detection head at its end.

    ``model`` numbers the blocks as the classic code does, so that official checkpoints fit by name:
    ``model.0.conv.weight`` .. ``model.24.m.2.bias``.

    Args:
        layers: blocks; each has ``i``, its number, and ``f``, the number or numbers of the blocks that it
            reads (-1 is the one before).
        saved: numbers of the blocks whose output a later block reads.
        head: the head.
        head_sources: numbers of the blocks that the head reads.
    """

    def __init__(self, layers: nn.Sequential, saved: list[int], head: Head, head_sources: list[int]) -> None:
        super().__init__()
        block: Any = head
        block.i = len(layers)
        block.f = head_sources
        self.model = nn.Sequential(*layers, block)
        self.head_sources = tuple(head_sources)
        self._saved = frozenset(saved) | frozenset(head_sources)

    @property
    def head(self) -> Head:
        """The last block."""
        return cast(Head, self.model[-1])

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels a cell, level by level: 8, 16, 32 (and 64)."""
        return self.head.strides

    def forward(self, images: Tensor) -> list[Tensor]:
        """Raw maps of the head, one a level, see :mod:`.heads`.

        Args:
            images: float (B, 3, H, W) in 0..1, sides multiples of the largest stride.
        """
        maps: list[Tensor] = run_layers(self.model, self._saved, images)[-1]
        return maps


def run_layers(layers: nn.Sequential, saved: frozenset[int], images: Tensor) -> dict[int, Any]:
    """Outputs of numbered blocks for images: of those in ``saved``, and of the last one under -1."""
    outputs: dict[int, Any] = {-1: images}
    for layer in layers:
        number: Any = layer.i
        source: Any = layer.f
        inputs = outputs[source] if isinstance(source, int) else [outputs[one] for one in source]
        outputs[-1] = layer(inputs)
        if number in saved:
            outputs[number] = outputs[-1]
    return outputs


def build_network(architecture: str, num_classes: int) -> DetectionNetwork:
    """Build a YOLOv5 with fresh weights.

    Args:
        architecture: ``yolov5n|s|m|l|x``, with ``6`` for P6 or ``u`` for the anchor-free head, or the path of
            a YAML with ``backbone`` and ``head`` in the classic format. The last row of ``head`` names one of
            ``heads.HEADS``; ``Detect`` is anchor-free unless the YAML has ``anchors``.
        num_classes: C.

    Raises:
        InputError: the name is unknown, or the YAML does not describe a YOLOv5 detector.
    """
    description, anchors_px = read_architecture(architecture)
    *rows, (head_sources, _, head_name, _) = description["head"]
    body = {**description, "head": rows, "nc": num_classes}
    try:
        layers, saved = parse_model(copy.deepcopy(body), ch=3, verbose=False)
        sources = [number % len(layers) for number in head_sources]
        channels, strides = _measure(layers, frozenset(saved) | frozenset(sources), sources)
    except (KeyError, AttributeError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise InputError(
            f"{architecture}: the layers cannot be built ({type(error).__name__}: {error}); compare the file "
            f"with {MODEL_FILES / 'yolov5.yaml'}, whose blocks and format it has to use"
        ) from error
    if anchors_px is not None and len(anchors_px) != len(strides):
        raise InputError(
            f"{architecture}: anchors has {len(anchors_px)} levels but {head_name} reads "
            f"{len(strides)}; give one row of anchors a level"
        )
    head = HEADS[head_name](num_classes, channels, strides, anchors_px)
    network = DetectionNetwork(layers, saved, head, sources)
    _set_classic_details(network)
    return network


def read_architecture(architecture: str) -> tuple[dict[str, Any], Tensor | None]:
    """Content of a model YAML, checked, and its anchors (L, A, 2) in px or None; for :func:`build_network`.

    Raises:
        InputError: the name is unknown, or the YAML does not describe a YOLOv5 detector.
    """
    name = _NAME.fullmatch(architecture)
    if name:
        size, p6, anchor_free = name.groups()
        file = MODEL_FILES / ("yolov5-p6.yaml" if p6 else "yolov5.yaml")
        anchors = None if anchor_free else torch.tensor(P6_ANCHORS_PX if p6 else P5_ANCHORS_PX).float()
        return {**yaml.safe_load(file.read_text()), "scale": size}, anchors
    path = Path(architecture)
    if path.suffix not in {".yaml", ".yml"}:
        raise InputError(f"model.architecture {architecture!r} is not known; use {NAMES}")
    if not path.is_file():
        raise InputError(f"model.architecture {architecture}: there is no such file; use {NAMES}")
    try:
        description = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(
            f"{path}: not valid YAML ({' '.join(str(error).split())}); correct the file"
        ) from error
    _check_description(path, description)
    return description, _read_anchors(path, description.get("anchors"))


def _check_description(path: Path, description: Any) -> None:
    """Refuse descriptions of other networks, and activations that are no plain torch module."""
    for key in ("backbone", "head"):
        if not isinstance(description, dict) or not isinstance(description.get(key), list):
            raise InputError(
                f"{path}: has no list {key!r}; a model YAML needs 'backbone' and 'head', "
                f"like {MODEL_FILES / 'yolov5.yaml'}"
            )
    last = description["head"][-1]
    if not (isinstance(last, list) and len(last) == 4 and last[2] in tuple(HEADS)):
        raise InputError(
            f"{path}: the last row of 'head' must be a {' or '.join(HEADS)}, "
            "like [[17, 20, 23], 1, Detect, [nc]]"
        )
    activation = description.get("activation")
    if activation is not None:
        match = _ACTIVATION.fullmatch(str(activation))
        if not match or not hasattr(nn, match[1]):
            raise InputError(
                f"{path}: activation {activation!r} is not of the form nn.SiLU(); use a torch.nn module"
            )
        description["activation"] = f"torch.nn.{match[1]}({match[2]})"


def _read_anchors(path: Path, anchors: Any) -> Tensor | None:
    if anchors is None:
        return None
    try:
        return torch.tensor(anchors, dtype=torch.float32).reshape(len(anchors), -1, 2)  # (L, A, 2)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path}: anchors must be one row of widths and heights in px a level, like [10,13, 16,30, 33,23]"
        ) from error


def _measure(layers: nn.Sequential, saved: frozenset[int], sources: list[int]) -> tuple[list[int], list[int]]:
    """Channels and strides of the blocks that the head reads, measured with an empty image."""
    side_px = 256
    device = next(layers.parameters()).device
    layers.eval()  # keeps this image out of the running statistics of the batch norms
    with torch.no_grad():
        outputs = run_layers(layers, saved, torch.zeros(1, 3, side_px, side_px, device=device))
    layers.train()
    return [outputs[n].shape[1] for n in sources], [side_px // outputs[n].shape[2] for n in sources]


def _set_classic_details(network: nn.Module) -> None:
    """Set batch norm constants and in-place activations as the classic code does after construction."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03
        elif isinstance(module, nn.SiLU | nn.ReLU | nn.ReLU6 | nn.LeakyReLU | nn.Hardswish):
            module.inplace = True
        elif isinstance(module, SPPF):
            module.cv1.act = module.cv2.act  # some releases of ultralytics leave it without one
