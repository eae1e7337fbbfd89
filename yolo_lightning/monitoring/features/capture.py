"""The outputs of single layers, caught on the way through the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...model.network import DetectionNetwork


class FeatureMaps(NamedTuple):
    """What a network makes of images."""

    raw: list[Tensor]
    """Raw maps of the head, one a level."""
    layers: dict[int, Tensor]
    """By number of the layer: (B, C, H/s, W/s), in the dtype of the network."""


def head_layers(network: DetectionNetwork) -> list[int]:
    """Numbers of the layers that the head reads, finest first: 17, 20, 23; 23, 26, 29, 32 with P6."""
    return list(network.head_sources)


def describe_layer(network: DetectionNetwork, number: int) -> str:
    """Number and kind of a layer, such as ``17 C3``."""
    return f"{number} {type(network.model[number]).__name__}"


def check_layers(network: DetectionNetwork, layers: Sequence[int], option: str = "layers") -> list[int]:
    """The layers that were asked for, each once.

    Args:
        network: that has the layers.
        layers: their numbers.
        option: by what name the user knows them.

    Raises:
        InputError: one does not exist or is the head, or there are none.
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
    """Catch the outputs of layers in every forward pass within the ``with`` block.

    Args:
        network: is the same afterwards, whatever happens in the block.
        layers: numbers of the layers; see :func:`check_layers`.

    Yields:
        By number, the newest output of the layer (B, C, H/s, W/s); empty before the first pass.

    Raises:
        InputError: a layer does not exist.
    """
    found: dict[int, Tensor] = {}
    handles = []
    try:
        for number in check_layers(network, layers):
            handles.append(network.model[number].register_forward_hook(_keeper(found, number)))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _keeper(found: dict[int, Tensor], number: int) -> Any:
    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        found[number] = output

    return keep


@torch.no_grad()
def feature_maps(network: DetectionNetwork, images: Tensor, layers: Sequence[int]) -> FeatureMaps:
    """One eager pass in evaluation mode, with the outputs of layers.

    Parameters, their gradients, statistics of batch norms, training mode and random numbers stay as they
    are. ``forward`` is called by itself, so that a network that is compiled is not compiled again for
    these images.

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
    return FeatureMaps(raw, {number: found[number] for number in dict.fromkeys(layers)})
