"""Precision of the training where ``trainer.precision`` is left out."""

from __future__ import annotations

from typing import Literal

import torch

from ..system.environment import processor_facts

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Precisions that training supports, as the Trainer names them."""
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def default_precision(device: str) -> tuple[Precision, str]:
    """Choose ``bf16-mixed`` on hardware that computes in bfloat16, else fp32 on a CPU and fp16 on a GPU.

    Args:
        device: device as torch names it: cpu, cuda, cuda:1.

    Returns:
        The precision, and the reason as a clause for the log.
    """
    kind = device.split(":")[0]
    name = {"cpu": "CPU", "cuda": "GPU"}.get(kind, "device")
    if has_native_bf16(device):
        return "bf16-mixed", f"this {name} computes in bfloat16"
    return ("16-mixed" if kind == "cuda" else "32-true"), f"this {name} does not compute in bfloat16"


def has_native_bf16(device: str) -> bool:
    """Tell hardware that computes in bfloat16 from hardware that only emulates it."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    facts = processor_facts()
    flags = facts.get("flags", facts.get("Features", "")).split()
    return device == "cpu" and torch.backends.mkldnn.is_available() and not _BF16_FLAGS.isdisjoint(flags)
