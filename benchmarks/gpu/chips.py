"""What a chip is called, and what its data sheet promises: dense tensor-core rates, and memory."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

_FIELDS = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm", "clocks.max.memory")


@dataclass(frozen=True)
class Peaks:
    """Limits of a chip."""

    chip: str
    bf16_tflops: float
    tf32_tflops: float
    gb_per_second: float
    """Of its memory, in 10^9 bytes."""
    source: str


_H100 = "NVIDIA H100 Tensor Core GPU data sheet (its figures with sparsity, halved)"
_H200 = "NVIDIA H200 Tensor Core GPU data sheet (its figures with sparsity, halved)"
_A100 = "NVIDIA A100 Tensor Core GPU data sheet"

CHIPS = (
    (("H200",), Peaks("H200 SXM", 989.5, 494.7, 4800, _H200)),
    (("H100", "PCIe"), Peaks("H100 PCIe", 756.5, 378.0, 2000, _H100)),
    (("H100", "NVL"), Peaks("H100 NVL", 835.5, 417.5, 3900, _H100)),
    (("H100",), Peaks("H100 SXM", 989.5, 494.7, 3350, _H100)),
    (("A100", "PCI", "80GB"), Peaks("A100 80GB PCIe", 312.0, 156.0, 1935, _A100)),
    (("A100", "80GB"), Peaks("A100 80GB SXM", 312.0, 156.0, 2039, _A100)),
    (("A100",), Peaks("A100 40GB", 312.0, 156.0, 1555, _A100)),
)
"""Words that the name of a GPU contains, and its limits; the first row that fits holds."""


def peaks_of(name: str) -> Peaks | None:
    """Limits of a GPU by the name that CUDA gives it; None where they are not in the table."""
    return next(
        (peaks for words, peaks in CHIPS if all(word.lower() in name.lower() for word in words)), None
    )


def ask_driver() -> dict[str, str]:
    """What ``nvidia-smi`` says of the first GPU; nothing where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    query = [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader"]
    lines = subprocess.run(query, capture_output=True, text=True, timeout=60).stdout.strip().splitlines()
    return dict(zip(_FIELDS, lines[0].split(", "), strict=False)) if lines else {}


def result_name(device: str, toy: bool, driver: dict[str, str]) -> str:
    """Name of a result without its ending: one a kind of GPU, so that readings of two never mix."""
    chip = re.sub(r"\W+", "_", driver.get("name", device).lower()) if device == "cuda" else device
    return f"gpu_{chip}{'_toy' if toy else ''}"
