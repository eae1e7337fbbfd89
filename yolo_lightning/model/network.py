"""Networks, built from the name of a model or a YOLOv5-style YAML."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import InputError
from ..system.text import first_line
from .architecture import is_name, read_architecture, short_name
from .blocks import MODEL_FILES, SPPF, build_layers
from .heads import HEADS, Head

_MOST = {"modules": 50_000, "parameters": 2**31, "values in the maps of an image of 256 px": 2**31}
"""Limits of a network; the largest YOLOv5 has 600 modules and 0.14 billion parameters."""


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

    @property
    def stride(self) -> int:
        """Divisor of the sides of images, in px: 32 even if the head reads finer levels alone, or 64."""
        return max(32, *self.strides)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Raw maps of the head, one a level, see :mod:`.heads`.

        Args:
            images: float (B, 3, H, W) in 0..1, sides multiples of ``stride``.
        """
        maps: list[Tensor] = run_layers(self.model, self._saved, images)[-1]
        return maps


def with_fused_norms(network: DetectionNetwork) -> DetectionNetwork:
    """A faster copy for evaluation, in which each batch norm is a part of the convolution before it."""
    fused = copy.deepcopy(network).eval()
    for block in fused.modules():
        conv, norm = getattr(block, "conv", None), getattr(block, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            block.conv, block.bn = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return fused


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
    description, anchors, activation = read_architecture(architecture)
    try:
        if not is_name(architecture):  # first without memory, because a number in a file may be any
            with torch.device("meta"), _limits():
                _assemble(architecture, description, anchors, activation, num_classes)
        return _assemble(architecture, description, anchors, activation, num_classes)
    except InputError:
        raise
    except Exception as error:  # layers that do not fit one another fail in any way
        raise InputError(
            f"{short_name(architecture)}: the layers cannot be built ({first_line(error)}); "
            f"compare the file with {MODEL_FILES / 'yolov5.yaml'}, whose blocks and format it has to use"
        ) from error


def _assemble(
    architecture: str,
    description: dict[str, Any],
    anchors: Tensor | int | None,
    activation: nn.Module | None,
    num_classes: int,
) -> DetectionNetwork:
    *rows, (head_sources, _, head_name, _) = description["head"]
    layers, saved = build_layers({**description, "head": rows, "nc": num_classes}, activation)
    sources = [len(layers) - 1 if number == -1 else number for number in head_sources]
    channels, strides = _measure(layers, frozenset(saved) | frozenset(sources), sources)
    if isinstance(anchors, Tensor) and len(anchors) != len(strides):
        raise InputError(
            f"{short_name(architecture)}: anchors has {len(anchors)} levels but {head_name} reads "
            f"{len(strides)}; give one row of anchors a level"
        )
    head = HEADS[head_name](num_classes, channels, strides, anchors)
    network = DetectionNetwork(layers, saved, head, sources)
    _set_classic_details(network)
    return network


@contextmanager
def _limits() -> Iterator[None]:
    """Refuse modules and values beyond any detector, while layers are built and run.

    Raises:
        ValueError: there are too many.
    """
    counts = Counter[str]()

    def count(kind: str, number: int) -> None:
        counts[kind] += number
        if counts[kind] > _MOST[kind]:
            raise ValueError(f"more than {_MOST[kind]:,} {kind}")

    def count_parameter(_module: nn.Module, _name: str, value: Tensor | None) -> None:
        count("parameters", 0 if value is None else value.numel())

    def count_output(_module: nn.Module, _inputs: Any, output: Any) -> None:
        count("values in the maps of an image of 256 px", output.numel() if isinstance(output, Tensor) else 0)

    handles = (
        register_module_module_registration_hook(lambda *_: count("modules", 1)),
        register_module_parameter_registration_hook(count_parameter),
        register_module_forward_hook(count_output),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
