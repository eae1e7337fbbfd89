"""Precision of the training: the choice where ``trainer.precision`` is left out, and the test of fp16."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

import torch

from ..data.image_size import Size
from ..model.network import build_network
from ..system.environment import processor_facts
from .divergence import is_finite

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Precisions that training supports, as the Trainer names them."""


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
    return device == "cpu" and torch.backends.mkldnn.is_available() and _cpu_gains_from_bf16()


def _cpu_gains_from_bf16() -> bool:
    """Follow the flags of the CPU, as far as oneDNN may use what they promise.

    An Intel Xeon with ``avx512_bf16`` but without AMX takes longer in bfloat16 than in fp32; the figures are
    in docs/performance.md.
    """
    facts = processor_facts()
    flags = facts.get("flags", facts.get("Features", "")).split()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    if facts.get("vendor_id") == "AuthenticAMD":
        below = ("AVX512_CORE", "AVX512_CORE_VNNI")
        return "avx512_bf16" in flags and (limit == "DEFAULT" or ("512" in limit and limit not in below))
    return "bf16" in flags or ("amx_bf16" in flags and ("AMX" in limit or limit == "DEFAULT"))
