"""Precision of the training: the choice where ``trainer.precision`` is left out, and the test of fp16."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch.nn import functional

from ..data.image_size import Size
from ..model.network import build_network
from ..system.environment import processor_facts
from .divergence import is_finite

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Precisions that training supports, as the Trainer names them."""
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_LEAST_GAIN = 1.1
"""Speed of bfloat16, measured in fp32's, from which it is chosen on a CPU."""


def default_precision(device: str) -> tuple[Precision, str]:
    """Choose ``bf16-mixed`` on hardware that gains from bfloat16, else fp32 on a CPU and fp16 on a GPU.

    Args:
        device: device as torch names it: cpu, cuda, cuda:1.

    Returns:
        The precision, and the reason as a clause for the log.
    """
    kind = device.split(":")[0]
    name = {"cpu": "CPU", "cuda": "GPU"}.get(kind, "device")
    if has_native_bf16(device):
        return "bf16-mixed", f"this {name} computes in bfloat16"
    return ("16-mixed" if kind == "cuda" else "32-true"), f"this {name} gains nothing from bfloat16"


def usable_precision(precision: str, device: str, is_sound: Callable[[], bool]) -> tuple[str, str | None]:
    """Replace fp16 by bf16, or else by fp32, on a device where it gives values that are not finite.

    Args:
        precision: as the Trainer names it; anything but fp16 is returned as it is.
        device: device as torch names it.
        is_sound: runs the test, such as :func:`fp16_is_sound`.

    Returns:
        The precision, and a sentence for the log if it is another one.
    """
    if precision not in ("16-mixed", "16") or is_sound():
        return precision, None
    other = "bf16-mixed" if has_native_bf16(device) else "32-true"
    return other, f"fp16 gives values that are not finite on this device; training in {other} instead"


def fp16_is_sound(device: str, architecture: str, num_classes: int, image_size: Size) -> bool:
    """Run a fresh network forward and backward in fp16; False if an output or a gradient is not finite.

    ``image_size`` is height and width in px. The random generators are left as they were.
    """
    with torch.random.fork_rng([device] if device.startswith("cuda") else []):
        network = build_network(architecture, num_classes).to(device).to(memory_format=torch.channels_last)
        images = torch.rand(2, 3, *image_size, device=device)
    with torch.autocast(device.split(":")[0], torch.float16):
        maps = network(images.contiguous(memory_format=torch.channels_last))
    torch.stack([each.float().square().mean() for each in maps]).sum().backward()
    gradients = [value.grad for value in network.parameters() if value.grad is not None]
    return is_finite([*maps, *gradients])


def has_native_bf16(device: str) -> bool:
    """Tell hardware that computes in bfloat16 from hardware that emulates it or gains nothing from it."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    facts = processor_facts()
    flags = facts.get("flags", facts.get("Features", "")).split()
    has_flag = device == "cpu" and torch.backends.mkldnn.is_available() and not _BF16_FLAGS.isdisjoint(flags)
    return has_flag and bf16_gain() > _LEAST_GAIN


@functools.cache
def bf16_gain() -> float:
    """Speed of a convolution in bfloat16 on this CPU, forward and backward, measured in fp32's.

    The flags of a CPU do not tell it: an Intel Xeon with ``avx512_bf16`` but without AMX takes nearly twice
    as long in bfloat16, and ``ONEDNN_MAX_CPU_ISA`` may forbid what the CPU has.
    """
    images = torch.ones(4, 64, 20, 20).contiguous(memory_format=torch.channels_last).requires_grad_()
    weights = torch.ones(64, 64, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    least = {True: float("inf"), False: float("inf")}
    for _ in range(6):  # the least of several: the first prepares, and other programs may hold one up
        for half in least:
            begun = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                functional.conv2d(images, weights, padding=1).sum().backward()
            least[half] = min(least[half], time.perf_counter() - begun)
    return least[False] / least[True]
