"""Captures the outputs of single layers in a forward pass."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...model.network import DetectionNetwork


class LayerOutputs(NamedTuple):
    """Outputs of a forward pass."""

    raw: list[Tensor]
    """Raw maps of the head, one per level."""
    layers: dict[int, Tensor]
    """Outputs (B, C, H/s, W/s) by the number of the layer, in the dtype of the network."""


def head_layers(network: DetectionNetwork) -> list[int]:
    """Numbers of the layers that the head reads, finest first: 17, 20, 23; 23, 26, 29, 32 with P6."""
    return list(network.head_sources)


def describe_layer(network: DetectionNetwork, number: int) -> str:
    """Number and kind of a layer, such as ``17 C3``."""
    return f"{number} {type(network.model[number]).__name__}"


def check_layers(network: DetectionNetwork, layers: Sequence[int], option: str = "layers") -> list[int]:
    """Check the numbers of layers, and remove duplicates.

    Args:
        network: the network with the layers.
        layers: their numbers.
        option: name of the user's option, for the error.

    Raises:
        InputError: a layer does not exist or is the head, or the list is empty.
    """
    last = len(network.model) - 2  # the head comes after it
    wrong = [number for number in layers if not 0 <= number <= last]
    if layers and not wrong:
        return list(dict.fromkeys(layers))
    problem = f"there is no layer {wrong[0]} with feature maps" if wrong else "no layer is named"
    known = ", ".join(describe_layer(network, number) for number in range(last + 1))
    raise InputError(f"{option}: {problem}; there are {known}")


@contextmanager
def capture(network: DetectionNetwork, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Capture the outputs of layers in each forward pass within the ``with`` block.

    Args:
        network: keeps no hook after the block.
        layers: numbers of the layers; see :func:`check_layers`.

    Yields:
        The newest output (B, C, H/s, W/s) by the number of the layer; empty before the first pass.

    Raises:
        InputError: a layer does not exist.
    """
    found: dict[int, Tensor] = {}

    def keep(number: int, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        found[number] = output

    with ExitStack() as hooks:
        for number in check_layers(network, layers):
            hook = functools.partial(keep, number)
            hooks.callback(network.model[number].register_forward_hook(hook).remove)
        yield found


@torch.no_grad()
def feature_maps(network: DetectionNetwork, images: Tensor, layers: Sequence[int]) -> LayerOutputs:
    """Run one eager pass in evaluation mode, and capture the outputs of layers.

    The network does not change: neither parameters, gradients, batch-norm statistics nor training mode.
    ``forward`` is called directly, so that a compiled network is not compiled again for these images.

    Args:
        network: on any device, in any precision.
        images: float (B, 3, H, W) in 0..1, sides multiples of the largest stride.
        layers: numbers of the layers; see :func:`check_layers`.

    Raises:
        InputError: a layer does not exist.
    """
    parameter = next(network.parameters())
    was_training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with capture(network, layers) as found:
            raw = network.forward(images.to(parameter.device, parameter.dtype))
    finally:
        for module in was_training:
            module.training = True
    return LayerOutputs(raw, {number: found[number] for number in dict.fromkeys(layers)})
