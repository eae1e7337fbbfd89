"""Facts about a GPU, and its readings. Units are in the names."""

from __future__ import annotations

from dataclasses import dataclass

COSTLY_REASONS = {
    "SwPowerCap": "its power limit",
    "SwThermalSlowdown": "heat",
    "HwThermalSlowdown": "heat, by the hardware",
    "HwPowerBrakeSlowdown": "the server's power brake",
    "HwSlowdown": "the hardware",
}
"""NVML's reasons for lower clocks of a busy GPU -> words.

Idleness, clocks set by a user, sync boost and display clocks do not count.
"""


@dataclass(frozen=True)
class GpuFacts:
    """Values that do not change during a run; None if the GPU does not report them."""

    index: int | None = None
    """NVML's, as ``nvidia-smi`` shows it; CUDA_VISIBLE_DEVICES does not change it."""
    name: str = "NVIDIA"
    is_mig: bool = False
    """The process uses a MIG instance; readings still describe the whole GPU."""
    memory_total_mb: float | None = None
    slowdown_c: float | None = None
    """Temperature at which the hardware at least halves the clocks."""
    max_operating_c: float | None = None
    """Temperature at which the driver lowers the clocks."""
    power_limit_w: float | None = None
    max_sm_clock_mhz: float | None = None
    max_memory_clock_mhz: float | None = None
    retired_pages: int | None = None
    """Bad memory pages, retired for good; None on GPUs that remap rows instead."""

    @property
    def limit_c(self) -> float | None:
        """Lowest temperature at which clocks are lowered."""
        return min((limit for limit in (self.slowdown_c, self.max_operating_c) if limit), default=None)

    @property
    def title(self) -> str:
        """Index and name."""
        number = "" if self.index is None else f" {self.index}"
        return f"GPU{number} ({self.name}{', MIG: all of the GPU' if self.is_mig else ''})"


@dataclass(frozen=True)
class GpuReading:
    """One reading of a GPU; None for values that it does not report or that were not asked for."""

    utilisation: float | None = None
    """Share of the last sampling period in which at least one kernel ran, 0..1."""
    memory_used_mb: float | None = None
    """Memory of all processes, in 10^6 bytes."""
    temperature_c: float | None = None
    margin_c: float | None = None
    """Degrees below the limit, for GPUs that do not report the limit."""
    power_w: float | None = None
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    throttling: frozenset[str] = frozenset()
    """Keys of ``COSTLY_REASONS``."""
    is_idle: bool = False
    """Clocks are low because there is no work."""
    pcie_rx_mb_s: float | None = None
    """Traffic into the GPU over 20 ms, in 10^6 bytes a second."""
    pcie_tx_mb_s: float | None = None
    ecc_corrected: int | None = None
    """Memory errors since the driver was loaded."""
    ecc_uncorrected: int | None = None
    remapped_rows: int | None = None
    """Bad memory rows, replaced for good."""
    remapping_pending: bool | None = None
    remapping_failed: bool | None = None
    xids: tuple[int, ...] = ()
    """Critical errors (Xid numbers) reported by the driver since the previous reading."""
