"""Divergence of a training: values that are not finite, and what in a batch was the first of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..model.losses import DetectionLoss
from ..model.network import DetectionNetwork
from .step import Prepared, training_losses

LARGEST_LOSS = 1e6
"""A part of the loss above it has exploded: it is a mean over images, and rarely above 100."""


class Diagnosis(NamedTuple):
    """What in a batch was the first value that is not finite, or that explodes."""

    part: str  # weights, images, labels, layer, loss or gradient, in this order of search
    text: str  # a clause for a person
    layer: str | None = None  # the first layer with an output that is not finite
    rows: tuple[int, ...] = ()  # the images to blame, by their number in the batches; () if that is unknown


def magnitude(tensors: Iterable[Tensor]) -> float:
    """Largest absolute value; NaN or infinite if one value is. Waits for the device once."""
    floating = [tensor.detach() for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if not floating:
        return 0.0
    ends = [end for tensor in floating for end in torch.aminmax(tensor)]  # a CPU's foreach_norm is slower
    return float(torch.stack([end.to(ends[0].device, torch.float32) for end in ends]).abs().max())


def losses_are_sound(parts: Iterable[Mapping[str, Tensor]]) -> bool:
    """Tell if no loss is NaN, infinite or above :data:`LARGEST_LOSS`. Waits for the device once."""
    return magnitude(value for losses in parts for value in losses.values()) <= LARGEST_LOSS


def diagnose(
    network: DetectionNetwork, criterion: DetectionLoss, batches: Sequence[Prepared]
) -> Diagnosis | None:
    """Run batches eagerly, forward and backward, and find what was not finite first; None if all is.

    Only the running statistics of batch norms change. Every rank makes the call, because the loss may wait
    for the others.
    """
    first = None
    for number, batch in enumerate(batches):
        found = _diagnose(network, criterion, batch)
        if found and not first:
            rows = tuple(number * len(batch.images) + row for row in found.rows)
            first = found._replace(rows=rows)
    return first


def _diagnose(network: DetectionNetwork, criterion: DetectionLoss, batch: Prepared) -> Diagnosis | None:
    wrong = _first(network.named_parameters())
    layer: list[str] = []

    def watch(name: str) -> Any:
        def hook(_: Any, inputs: Any, output: Any) -> None:
            if not layer and name and not is_finite(output if isinstance(output, list) else [output]):
                layer.append(name)

        return hook

    hooks = [module.register_forward_hook(watch(name)) for name, module in network.named_modules()]
    try:
        loss, parts = training_losses(network, criterion, *batch)
    finally:
        for hook in hooks:
            hook.remove()
    parameters = [(name, value) for name, value in network.named_parameters() if value.requires_grad]
    gradients = torch.autograd.grad(loss, [value for _, value in parameters], allow_unused=True)
    first = layer[0] if layer else None
    if wrong:
        return Diagnosis("weights", f"the weights are not finite ({wrong})", first)
    is_wrong = batch.mask & ~batch.targets.isfinite().all(1)
    blamed = {
        "images": (~batch.images.flatten(1).isfinite().all(1)).nonzero().flatten(),
        "labels": batch.targets[is_wrong, 0].unique().long(),
    }
    for part, images in blamed.items():
        if rows := tuple(images.tolist()):
            thing = "pixels" if part == "images" else "labels"
            return Diagnosis(part, f"{thing} of {len(rows)} of its images are not finite", first, rows)
    if first:
        return Diagnosis("layer", f"the output of {first} is the first that is not finite", first)
    for name, value in parts.items():
        if not float(value.abs()) <= LARGEST_LOSS:
            return Diagnosis("loss", f"the {name} loss is {float(value):.3g}")
    # The last layer has its gradient first.
    found = [
        (n, g) for (n, _), g in zip(reversed(parameters), reversed(gradients), strict=True) if g is not None
    ]
    if wrong := _first(found):
        return Diagnosis("gradient", f"the gradient of {wrong} is the first that is not finite")
    return None


def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Tell if no value is NaN or infinite. Waits for the device once."""
    return math.isfinite(magnitude(tensors))


def _first(values: Iterable[tuple[str, Tensor]]) -> str | None:
    """Name of the first tensor that is not finite."""
    return next((name for name, value in values if not is_finite([value])), None)
