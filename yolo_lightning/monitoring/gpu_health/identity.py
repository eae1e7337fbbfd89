"""Which GPU a torch device is, in words that NVML knows."""

from __future__ import annotations

from typing import NamedTuple

import torch


class GpuIdentity(NamedTuple):
    """What is the same for CUDA and for NVML; their indices differ where devices are hidden or reordered."""

    uuid: str = ""
    """Of the GPU or of the MIG instance, as CUDA gives it: without the prefix that NVML puts before it."""
    pci_bus_id: str = ""
    """``domain:bus:device.function``, in hexadecimal digits."""


def identify(device: torch.device) -> GpuIdentity | None:
    """Identity of an NVIDIA GPU; None for every other device, on ROCm too."""
    if device.type != "cuda" or torch.version.cuda is None:
        return None
    properties = torch.cuda.get_device_properties(device)
    parts = [getattr(properties, f"pci_{name}_id", None) for name in ("domain", "bus", "device")]
    domain, bus, slot = (part if isinstance(part, int) else -1 for part in parts)
    known = min(domain, bus, slot) >= 0
    return GpuIdentity(
        uuid=str(getattr(properties, "uuid", "")),
        pci_bus_id=f"{domain:08x}:{bus:02x}:{slot:02x}.0" if known else "",
    )
