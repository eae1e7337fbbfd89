"""One NVIDIA GPU, read through NVML. Values that the GPU or the user's permissions lack are left out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pynvml
import torch

_REMEDIES = {
    pynvml.NVMLError_LibraryNotFound: (
        "libnvidia-ml.so.1 is missing; give a container NVIDIA_DRIVER_CAPABILITIES=compute,utility"
    ),
    pynvml.NVMLError_DriverNotLoaded: "the NVIDIA driver is not loaded; see whether nvidia-smi works",
    pynvml.NVMLError_LibRmVersionMismatch: (
        "the NVIDIA driver was updated and the old one still runs; restart the machine"
    ),
    pynvml.NVMLError_NoPermission: (
        "permission denied; give this user access to /dev/nvidiactl and /dev/nvidia*"
    ),
}
"""Errors when NVML is opened -> why it cannot be used, and what to do."""
LOST = (pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_ResetRequired)
"""Errors of a GPU to which the driver has lost access."""
FORBIDDEN = "permission denied for"  # why a reading is left out that this user may not see
_ABSENT = (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound, AttributeError)
"""Errors of values that this GPU, this driver or this pynvml does not have."""

COOLING = "cool it better, or lower its power limit with 'nvidia-smi -pl'"
THROTTLE_REASONS = {
    "SwThermalSlowdown": ("heat", COOLING),
    "HwThermalSlowdown": ("heat, by the hardware", COOLING),
    "HwPowerBrakeSlowdown": ("the server's power brake", "the machine's power supply is at its limit"),
    "HwSlowdown": ("the hardware", "see to its cooling, its power cables and the power supply"),
    "SwPowerCap": ("its power limit", "raise the limit with 'nvidia-smi -pl', where the board allows it"),
}
"""NVML's reasons for lower clocks of a busy GPU -> words and remedy; of several, the first one is reported.

Idleness, clocks set by a user, sync boost and display clocks do not count.
"""


class GpuReading(NamedTuple):
    """One reading of a GPU."""

    values: Mapping[str, float]
    """Values by name, with the unit in the name; those that the GPU does not report are missing.

    ``utilisation`` is the share of the last sampling period in which a kernel ran, 0..1; ``pcie_rx_mb_s``
    the traffic into the GPU over 20 ms, in 10^6 bytes a second; ``memory_used_mb`` that of all processes, in
    10^6 bytes.
    """
    counters: Mapping[str, int]
    """Memory errors since the driver was loaded, and rows of memory that were, or could not be, replaced."""
    throttling: frozenset[str] = frozenset()
    """Keys of ``THROTTLE_REASONS``; empty on an idle GPU."""
    is_idle: bool = False


class NvmlUnavailable(Exception):
    """NVML cannot be used; the message is a clause that says why and what to do."""


def is_nvidia(device: torch.device) -> bool:
    """Tell if a device is an NVIDIA GPU; with ROCm none is."""
    return device.type == "cuda" and torch.version.cuda is not None


def pci_bus_id(device: torch.device) -> str:
    """PCI address of a GPU, which CUDA and NVML share, unlike indices; a MIG instance has that of its GPU."""
    gpu: Any = torch.cuda.get_device_properties(device)
    return f"{gpu.pci_domain_id:08x}:{gpu.pci_bus_id:02x}:{gpu.pci_device_id:02x}.0"


@contextlib.contextmanager
def open_gpu(device: torch.device) -> Iterator[NvmlGpu]:
    """Start NVML, and find a GPU.

    Raises:
        NvmlUnavailable: NVML cannot be used, or does not know the GPU.
        LOST: the GPU is not accessible.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NvmlUnavailable(_REMEDIES.get(type(error), f"NVML does not start ({error})")) from None
    try:
        gpu = NvmlGpu(pci_bus_id(device))
        try:
            yield gpu
        finally:
            gpu.close()
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


class NvmlGpu:
    """A GPU, while NVML is started.

    Args:
        bus_id: its PCI address, ``domain:bus:device.function`` in hexadecimal digits.
    """

    def __init__(self, bus_id: str) -> None:
        self.left_out: dict[str, str] = {}
        """Readings that are not available -> why."""
        self._events: Any = None
        try:
            self._handle = pynvml.nvmlDeviceGetHandleByPciBusId(bus_id)
        except LOST:
            raise
        except pynvml.NVMLError as error:
            unknown = f"NVML does not know the GPU {bus_id} ({error})"
            raise NvmlUnavailable(_REMEDIES.get(type(error), unknown)) from None
        self._reasons = "nvmlDeviceGetCurrentClocksEventReasons"
        if self._get("throttle reasons", self._reasons) is None:  # a driver before 535; the bits are equal
            self._reasons = "nvmlDeviceGetCurrentClocksThrottleReasons"
        self.facts = self._read_facts()
        """Values that do not change, as far as they are known."""
        try:
            self._events = pynvml.nvmlEventSetCreate()
            xid = pynvml.nvmlEventTypeXidCriticalError
            pynvml.nvmlDeviceRegisterEvents(self._handle, xid, self._events)
        except pynvml.NVMLError as error:
            self._leave_out("Xid errors", error)

    def close(self) -> None:
        """Free what NVML holds."""
        if self._events is not None:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlEventSetFree(self._events)

    def _read_facts(self) -> dict[str, Any]:
        get = self._get
        threshold = "nvmlDeviceGetTemperatureThreshold"
        facts = {
            "index": get("index", "nvmlDeviceGetIndex"),
            "name": get("name", "nvmlDeviceGetName"),
            "memory_total_mb": get("memory", "nvmlDeviceGetMemoryInfo", of=lambda memory: memory.total / 1e6),
            "slowdown_c": get("slowdown", threshold, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
            "max_operating_c": get("maximum", threshold, pynvml.NVML_TEMPERATURE_THRESHOLD_GPU_MAX),
            "power_limit_w": get("power limit", "nvmlDeviceGetEnforcedPowerLimit", of=_thousandth),
            "max_sm_clock_mhz": get("clocks", "nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_SM),
            "max_memory_clock_mhz": get("clocks", "nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_MEM),
        }
        self.left_out.clear()  # nobody watches facts, and reasons may have another name
        if facts["slowdown_c"] is None and facts["max_operating_c"] is None:  # as on newer GPUs
            margin = get("temperature limit", "nvmlDeviceGetMarginTemperature")
            temperature = get("temperature", "nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU)
            if None not in (margin, temperature):
                facts["slowdown_c"] = temperature + margin
        return _known(facts)

    def read(self, thoroughly: bool = True) -> GpuReading:
        """Read the GPU; takes about a millisecond.

        Args:
            thoroughly: also read values that change rarely, and the PCIe counters (20 ms each).

        Raises:
            LOST: the driver has lost access to it.
        """
        get = self._get
        values = {
            "utilisation": get(
                "utilisation", "nvmlDeviceGetUtilizationRates", of=lambda rates: rates.gpu / 100
            ),
            "memory_used_mb": get("memory", "nvmlDeviceGetMemoryInfo", of=lambda memory: memory.used / 1e6),
            "temperature_c": get("temperature", "nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU),
            "power_w": get("power", "nvmlDeviceGetPowerUsage", of=_thousandth),
            "sm_clock_mhz": get("SM clock", "nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM),
            "memory_clock_mhz": get("memory clock", "nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_MEM),
        }
        counters = {}
        if thoroughly:
            ecc = ("ECC errors", "nvmlDeviceGetTotalEccErrors")
            volatile = pynvml.NVML_VOLATILE_ECC
            pcie = ("PCIe throughput", "nvmlDeviceGetPcieThroughput")  # in KB/s
            values["pcie_rx_mb_s"] = get(*pcie, pynvml.NVML_PCIE_UTIL_RX_BYTES, of=_thousandth)
            values["pcie_tx_mb_s"] = get(*pcie, pynvml.NVML_PCIE_UTIL_TX_BYTES, of=_thousandth)
            counters["ecc_corrected"] = get(*ecc, pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, volatile)
            counters["ecc_uncorrected"] = get(*ecc, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, volatile)
            rows: Any = get("remapped rows", "nvmlDeviceGetRemappedRows")
            if rows is not None:
                corrected, uncorrected, counters["remapping_pending"], counters["remapping_failed"] = rows
                counters["remapped_rows"] = corrected + uncorrected
        bits = get("throttle reasons", self._reasons) or 0
        reasons = [n for n in THROTTLE_REASONS if bits & getattr(pynvml, f"nvmlClocksEventReason{n}")]
        is_idle = bool(bits & pynvml.nvmlClocksEventReasonGpuIdle)
        return GpuReading(_known(values), _known(counters), frozenset(() if is_idle else reasons), is_idle)

    def take_xids(self) -> list[int]:
        """Critical errors (Xid numbers) reported by the driver since the last call."""
        xids: list[int] = []
        with contextlib.suppress(pynvml.NVMLError):  # a timeout: there are no more
            while "Xid errors" not in self.left_out:
                xids.append(int(pynvml.nvmlEventSetWait(self._events, 0).eventData))
        return xids

    def _get(
        self, title: str, function: str, *arguments: int, of: Callable[[Any], Any] = lambda value: value
    ) -> Any:
        """Call a function of pynvml, and convert its result; None if the value is not available."""
        if title in self.left_out:
            return None
        try:
            return of(getattr(pynvml, function)(self._handle, *arguments))
        except (pynvml.NVMLError, AttributeError) as error:
            self._leave_out(title, error)
            return None

    def _leave_out(self, title: str, error: Exception) -> None:
        """Remember that a value is not available; any other error may pass."""
        if isinstance(error, LOST):
            raise error
        if isinstance(error, pynvml.NVMLError_NoPermission):
            self.left_out[title] = FORBIDDEN
        elif isinstance(error, _ABSENT):
            self.left_out[title] = "cannot read"


def _thousandth(value: float) -> float:
    return value * 1e-3


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
