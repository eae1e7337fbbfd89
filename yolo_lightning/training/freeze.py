"""Frozen layers: parameters that keep their values, and batch norms that keep their statistics."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import InputError
from ..model.network import DetectionNetwork

FreezeOption = int | list[int | str]


def freeze_layers(network: DetectionNetwork, freeze: FreezeOption) -> list[nn.Module]:
    """Turn off the gradients of layers; return their batch norms, which have to be in evaluation to train.

    Args:
        network: network, whose layers are numbered from 0.
        freeze: number of layers from the first on; or a list of numbers of layers and of beginnings of the
            names of parameters, such as ``model.24.m``.

    Raises:
        InputError: a layer or a name does not exist, or nothing is left to train.
    """
    wanted: Sequence[int | str] = freeze if isinstance(freeze, list) else range(freeze)
    if isinstance(freeze, int) and freeze < 0:
        raise InputError(f"model.freeze is {freeze}; give a number of layers of 0 or more")
    last = len(network.model) - 1
    if wrong := [one for one in wanted if isinstance(one, int) and not 0 <= one <= last]:
        raise InputError(f"model.freeze: there is no layer {wrong[0]}; the layers are 0 to {last}")
    for one in wanted:
        name = (f"model.{one}" if isinstance(one, int) else one).removesuffix(".")
        frozen = [p for n, p in network.named_parameters() if n == name or n.startswith(f"{name}.")]
        if not frozen and isinstance(one, str):
            raise InputError(
                f"model.freeze: no parameter has a name that begins with {one!r}; the names are those of "
                "the network's state dict, such as model.0.conv.weight"
            )
        for parameter in frozen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError("model.freeze: nothing is left to train; freeze fewer layers")
    return [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and not any(p.requires_grad for p in module.parameters())
    ]


def describe_frozen(network: nn.Module, norms: Sequence[nn.Module]) -> str:
    """A sentence for the log; ``norms`` is the result of :func:`freeze_layers`."""
    frozen = [parameter.numel() for parameter in network.parameters() if not parameter.requires_grad]
    return (
        f"freeze: {len(frozen)} tensors with {sum(frozen):,} values are not trained, and {len(norms)} batch "
        "norms keep their statistics"
    )
