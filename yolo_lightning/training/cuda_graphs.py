"""CUDA graphs of the compiled step: what outlives a replay, and a test of their gradients before training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ..data.image_size import Size
from ..model.losses import DetectionLoss
from ..model.network import DetectionNetwork
from ..system.text import first_line
from .step import Prepared, training_losses

Losses = Callable[..., tuple[Tensor, dict[str, Tensor]]]
"""``step.training_losses``, or the same compiled."""
FULL_TOLERANCE, HALF_TOLERANCE = 0.05, 0.25
"""Largest difference from the eager gradient, as a part of its norm, in fp32 and in 16 bits. TF32 rounds to
0.1 %. Eager bfloat16 gradients of YOLOv5n have cosines of 0.988 to 0.997 with those in fp32: 8 to 15 % of the
norm, for each of the two."""
_WEIGHTS = 4.0, 2.0, 1.0
"""Factors of accumulated losses. They fall, so that lost gradients show even if all batches have the same:
where each replay overwrites the gradient before, 71 % of the norm is missing."""
_SCALE = 1024.0
"""Factor of all losses, because small gradients are 0 in fp16."""
_ROUNDS = 3
"""A graph runs eagerly, is captured, and is replayed from then on."""
_IMAGES, _ROWS = 2, 16


def keep_gradients(captured: Losses) -> Losses:
    """Losses whose parts and gradients outlive the next replay of their CUDA graphs.

    Each replay writes to the same memory. The first gradient of a parameter would become its ``.grad``
    without a copy, so ``.grad`` exists beforehand, and gradients are added to it. The loss itself lives only
    until its backward pass.
    """

    def losses(network: nn.Module, *arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        for value in network.parameters():
            if value.requires_grad and value.grad is None:
                value.grad = torch.zeros_like(value)
        torch.compiler.cudagraph_mark_step_begin()
        loss, parts = captured(network, *arguments)
        return loss, {name: part.clone() for name, part in parts.items()}

    return losses


def prove_gradients(
    captured: Losses,
    network: DetectionNetwork,
    criterion: DetectionLoss,
    image_size: Size,
    is_half: bool,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> tuple[bool, str]:
    """Compare the gradients of captured losses with eager ones, of one batch and of three accumulated ones.

    Copies of network and loss are used, so that no parameter, statistic or random generator changes. The
    images have the size of the run; two a batch take little memory beside the run's own.

    Args:
        captured: losses of :func:`keep_gradients`.
        network: the network on the device of the training.
        criterion: its loss.
        image_size: height and width of the images in px.
        is_half: whether ``autocast`` computes in 16 bits.
        autocast: context of each forward pass.

    Returns:
        True if they agree within the tolerance, and the reason as a clause for the log.
    """
    copy, loss = deepcopy((network, criterion))
    copy.train()
    device = next(copy.parameters()).device
    batches = _batches(image_size, device)
    tolerance = HALF_TOLERANCE if is_half else FULL_TOLERANCE

    def gradient(losses: Losses, used: Sequence[Prepared]) -> Tensor:  # (P,)
        copy.zero_grad()
        for weight, batch in zip(_WEIGHTS, used, strict=False):
            with autocast():
                value, _ = losses(copy, loss, *batch, None)
            (value * (weight * _SCALE)).backward()
        return torch.cat([each.grad.flatten().float() for each in copy.parameters() if each.grad is not None])

    differences = {}
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for name, used in (("one batch", batches[:1]), ("accumulated batches", batches)):
                expected = gradient(training_losses, used)
                found = [(gradient(captured, used) - expected).norm() for _ in range(_ROUNDS)]
                differences[name] = float(torch.stack(found).max() / expected.norm())
    except Exception as error:  # capture fails in errors of many kinds
        return False, f"its CUDA graphs fail here ({first_line(error)})"
    finally:
        torch.compiler.reset()  # gives the memory of the small graphs back
    told = " and ".join(f"{value:.2%} for {name}" for name, value in differences.items())
    said = f"the gradients of its CUDA graphs differ from eager ones by {told} (tolerance {tolerance:.0%})"
    return all(value <= tolerance for value in differences.values()), said


def _batches(image_size: Size, device: torch.device) -> list[Prepared]:
    """Batches of random images, of which the first has the most labels and the last has none."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for labels in (_ROWS, 1, 0):
        images = torch.rand(_IMAGES, 3, *image_size, generator=generator)
        corner, size = torch.rand(2, _ROWS, 2, generator=generator) * min(image_size) / 2
        image = torch.arange(_ROWS)[:, None] % _IMAGES
        targets = torch.cat((image, torch.zeros(_ROWS, 1), corner, corner + size), dim=1)  # (R, 6)
        mask = torch.arange(_ROWS) < labels
        targets = torch.where(mask[:, None], targets, 0.0)
        images = images.contiguous(memory_format=torch.channels_last)
        batches.append(Prepared(*(each.to(device) for each in (images, targets, mask))))
    return batches
