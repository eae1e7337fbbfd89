"""What is known of a GPU: once and for all, and at a moment. Units are in the names."""

from __future__ import annotations

from dataclasses import dataclass

COSTLY_REASONS = {
    "SwPowerCap": "its power limit",
    "SwThermalSlowdown": "heat",
    "HwThermalSlowdown": "heat, by the hardware",
    "HwPowerBrakeSlowdown": "the server's power brake",
    "HwSlowdown": "the hardware",
}
"""NVML's names of reasons that lower the clocks of a GPU with work to do -> words.

An idle GPU, clocks that were set by somebody, sync boost and display clocks are none of them.
"""


@dataclass(frozen=True)
class GpuFacts:
    """What stays as it is; None where it is not told."""

    index: int | None = None
    """NVML's, as ``nvidia-smi`` shows it, whatever CUDA_VISIBLE_DEVICES says."""
    name: str = "NVIDIA"
    is_mig: bool = False
    """Whether the process has an instance of the GPU only; what is read is that of the whole GPU."""
    memory_total_mb: float | None = None
    slowdown_c: float | None = None
    """From here on the hardware halves the clocks, or worse."""
    max_operating_c: float | None = None
    """From here on the driver lowers the clocks."""
    power_limit_w: float | None = None
    max_sm_clock_mhz: float | None = None
    max_memory_clock_mhz: float | None = None
    retired_pages: int | None = None
    """Of memory that was found bad, for good; GPUs that remap rows have none."""

    @property
    def limit_c(self) -> float | None:
        """The lowest temperature at which clocks are lowered."""
        return min((limit for limit in (self.slowdown_c, self.max_operating_c) if limit), default=None)

    @property
    def title(self) -> str:
        """Index and name."""
        number = "" if self.index is None else f" {self.index}"
        return f"GPU{number} ({self.name}{', MIG: all of the GPU' if self.is_mig else ''})"


@dataclass(frozen=True)
class Reading:
    """One look at a GPU; None where a value is not told or was not asked for."""

    utilisation: float | None = None
    """Part of the last moments, 0..1, in which at least one kernel ran."""
    memory_used_mb: float | None = None
    """By all processes, in 10^6 bytes."""
    temperature_c: float | None = None
    margin_c: float | None = None
    """Degrees below the limit, for GPUs that tell no limit."""
    power_w: float | None = None
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    throttling: frozenset[str] = frozenset()
    """Names among ``COSTLY_REASONS``."""
    is_idle: bool = False
    """Whether the clocks are low for want of work."""
    pcie_rx_mb_s: float | None = None
    """Into the GPU, over 20 ms, in 10^6 bytes."""
    pcie_tx_mb_s: float | None = None
    ecc_corrected: int | None = None
    """Errors of memory since the driver was loaded."""
    ecc_uncorrected: int | None = None
    remapped_rows: int | None = None
    """Of memory that was found bad, for good."""
    remapping_pending: bool | None = None
    remapping_failed: bool | None = None
    xids: tuple[int, ...] = ()
    """Numbers of the critical errors that the driver has reported since the last look."""
