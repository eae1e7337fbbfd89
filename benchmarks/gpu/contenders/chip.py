"""The chip itself: its name, its data sheet, and what a copy and a matrix product reach on it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from .. import arithmetic
from ..chips import ask_driver, peaks_of
from ..clock import time_steps
from ..options import parser


def measure(arguments: list[str]) -> dict[str, Any]:
    """Describe the device, and measure its copy and its bf16 product."""
    given = parser().parse_args(arguments)
    on_cuda = given.device == "cuda"
    side = 8192 if on_cuda else 256
    values = torch.randn(side, side, device=given.device, dtype=torch.bfloat16)
    source = torch.empty((1 << 30) if on_cuda else (1 << 20), dtype=torch.uint8, device=given.device)
    target = torch.empty_like(source)
    copy_ms = _median_ms(lambda: target.copy_(source), given.device)
    product_ms = _median_ms(lambda: values @ values, given.device)
    name = torch.cuda.get_device_name() if on_cuda else "CPU"
    peaks = peaks_of(name)
    return {
        "name": name,
        "data_sheet": asdict(peaks) if peaks else None,
        "measured_copy_gb_per_second": arithmetic.per_second(2 * source.numel(), copy_ms, 1e9),
        "measured_bf16_tflops": arithmetic.per_second(2 * side**3, product_ms, 1e12),
        "capability": list(torch.cuda.get_device_capability()) if on_cuda else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nvidia_smi": ask_driver(),
    }


def _median_ms(work: Callable[[], Any], device: str) -> float:
    for _ in range(3):
        work()
    arithmetic.device_is_done(device)
    return statistics.median(time_steps(work, device, 15))
