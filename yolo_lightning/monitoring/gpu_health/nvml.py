"""One NVIDIA GPU, read through NVML. Readings that the GPU or the user's permissions lack are left out."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch

from .readings import COSTLY_REASONS, GpuFacts, GpuReading

_MOST_XIDS = 32
"""Xid errors taken in one reading."""
_MOST_FAILURES = 3
"""Failures in a row after which a value is given up."""
_NO_PERMISSION = "permission denied; give this user access to /dev/nvidiactl and /dev/nvidia*"
_START_ERRORS = {
    "NVMLError_LibraryNotFound": (
        "libnvidia-ml.so.1 is missing; give a container NVIDIA_DRIVER_CAPABILITIES=compute,utility"
    ),
    "NVMLError_DriverNotLoaded": "the NVIDIA driver is not loaded; see whether nvidia-smi works",
    "NVMLError_LibRmVersionMismatch": (
        "the NVIDIA driver was updated and the old one still runs; restart the machine"
    ),
    "NVMLError_NoPermission": _NO_PERMISSION,
}
"""Errors of nvmlInit -> why NVML cannot be used, and what to do."""


class GpuIdentity(NamedTuple):
    """Name of a GPU for CUDA and NVML alike; their indices differ if devices are hidden or reordered."""

    uuid: str = ""
    """UUID of the GPU or of the MIG instance, without NVML's prefix."""
    pci_bus_id: str = ""
    """``domain:bus:device.function``, in hexadecimal digits."""


def identify(device: torch.device) -> GpuIdentity | None:
    """Identity of an NVIDIA GPU; None for every other device, also with ROCm."""
    if device.type != "cuda" or torch.version.cuda is None:
        return None
    properties = torch.cuda.get_device_properties(device)
    try:
        domain, bus, slot = (getattr(properties, f"pci_{name}_id") for name in ("domain", "bus", "device"))
        pci_bus_id = f"{domain:08x}:{bus:02x}:{slot:02x}.0"
    except AttributeError:  # an older torch
        pci_bus_id = ""
    return GpuIdentity(str(getattr(properties, "uuid", "")), pci_bus_id)


class NvmlUnavailable(Exception):
    """NVML cannot be used; the message is a clause that says why and what to do."""


class GpuLost(Exception):
    """The driver has lost access to the GPU; the message is NVML's.

    Attributes:
        xids: Xid errors that were reported last.
    """

    def __init__(self, message: str, xids: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.xids = xids


def open_gpu(identity: GpuIdentity, nvml: Any = None) -> NvmlGpu:
    """Initialise NVML and find a GPU; close it after use.

    Args:
        identity: of the GPU.
        nvml: a module like ``pynvml``; None imports it.

    Raises:
        NvmlUnavailable: NVML cannot be used, or does not know the GPU.
        GpuLost: the GPU is not accessible.
    """
    if nvml is None:
        try:
            import pynvml
        except ImportError:
            raise NvmlUnavailable("the package nvidia-ml-py is missing; pip install nvidia-ml-py") from None
        nvml = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        reasons = (why for name, why in _START_ERRORS.items() if isinstance(error, getattr(nvml, name)))
        raise NvmlUnavailable(next(reasons, f"NVML does not start ({error})")) from None
    try:
        return NvmlGpu(nvml, identity)
    except BaseException:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()
        raise


class NvmlGpu:
    """Reads one GPU.

    Attributes:
        facts: values that do not change.
        unsupported: values that this GPU or driver does not offer, or that keep failing.
        forbidden: values that this user may not read.

    Args:
        nvml: ``pynvml``, initialised, or a module like it; :meth:`close` shuts it down.
        identity: of the GPU.

    Raises:
        GpuLost: the GPU is not accessible.
        NvmlUnavailable: NVML does not know the GPU.
    """

    def __init__(self, nvml: Any, identity: GpuIdentity) -> None:
        self.unsupported: list[str] = []
        self.forbidden: list[str] = []
        self._nvml = nvml
        self._failures: dict[str, int] = {}
        self._events: Any = None
        self._lost = (nvml.NVMLError_GpuIsLost, nvml.NVMLError_ResetRequired)
        self._absent = (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound, AttributeError)
        self._handle, is_mig = self._find(identity)
        self._reasons = {name: self._reason(name) for name in (*COSTLY_REASONS, "GpuIdle")}
        self.facts = self._read_facts(is_mig)
        self._listen()

    def close(self) -> None:
        """Free what NVML holds, and shut it down."""
        with contextlib.suppress(self._nvml.NVMLError):
            if self._events is not None:
                self._nvml.nvmlEventSetFree(self._events)
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def read(self, thoroughly: bool = True) -> GpuReading:
        """Read the GPU; takes about a millisecond.

        Args:
            thoroughly: also read values that change rarely, and the PCIe counters (20 ms each).

        Raises:
            GpuLost: the driver has lost access to it.
        """
        xids = self._take_xids()
        try:
            return self._read(thoroughly, xids)
        except GpuLost as error:
            raise GpuLost(str(error), xids) from None

    def _read(self, thoroughly: bool, xids: tuple[int, ...]) -> GpuReading:
        nvml, get = self._nvml, self._get
        utilisation = get("utilisation", "nvmlDeviceGetUtilizationRates")
        memory = get("memory", "nvmlDeviceGetMemoryInfo")
        current = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        reasons = get("throttle reasons", current) or 0
        margin = None
        if self.facts.limit_c is None:
            margin = get("temperature limit", "nvmlDeviceGetMarginTemperature")
        rare = self._read_rare() if thoroughly else {}
        return GpuReading(
            utilisation=None if utilisation is None else utilisation.gpu / 100,
            memory_used_mb=None if memory is None else memory.used / 1e6,
            temperature_c=get("temperature", "nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            margin_c=margin,
            power_w=_scaled(get("power", "nvmlDeviceGetPowerUsage"), 1e-3),
            sm_clock_mhz=get("SM clock", "nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            memory_clock_mhz=get("memory clock", "nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
            throttling=frozenset(name for name in COSTLY_REASONS if reasons & self._reasons[name]),
            is_idle=bool(reasons & self._reasons["GpuIdle"]),
            xids=xids,
            **rare,
        )

    def _read_rare(self) -> dict[str, Any]:
        nvml, get = self._nvml, self._get
        volatile = nvml.NVML_VOLATILE_ECC
        errors = ("ECC errors", "nvmlDeviceGetTotalEccErrors")
        throughput = ("PCIe throughput", "nvmlDeviceGetPcieThroughput")
        rows = get("remapped rows", "nvmlDeviceGetRemappedRows")
        corrected, uncorrected, pending, failed = rows or (None,) * 4
        return {
            "ecc_corrected": get(*errors, nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, volatile),
            "ecc_uncorrected": get(*errors, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, volatile),
            "pcie_rx_mb_s": _scaled(get(*throughput, nvml.NVML_PCIE_UTIL_RX_BYTES), 1e-3),  # from KB/s
            "pcie_tx_mb_s": _scaled(get(*throughput, nvml.NVML_PCIE_UTIL_TX_BYTES), 1e-3),
            "remapped_rows": None if corrected is None else corrected + uncorrected,
            "remapping_pending": None if pending is None else bool(pending),
            "remapping_failed": None if failed is None else bool(failed),
        }

    def _find(self, identity: GpuIdentity) -> tuple[Any, bool]:
        """Handle of the GPU, and whether the identity is that of a MIG instance of it."""
        nvml = self._nvml
        uuid = identity.uuid.removeprefix("GPU-").removeprefix("MIG-")
        ways = [
            (nvml.nvmlDeviceGetHandleByUUID, uuid and f"GPU-{uuid}"),
            (nvml.nvmlDeviceGetHandleByUUID, uuid and f"MIG-{uuid}"),
            (nvml.nvmlDeviceGetHandleByPciBusId, identity.pci_bus_id),
        ]
        error: Exception | None = None
        for look_up, name in ways:
            if not name:
                continue
            try:
                handle = look_up(name)
                if name.startswith("MIG-"):
                    return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle), True
                return handle, False
            except nvml.NVMLError as raised:
                # If another GPU is lost, a look-up by UUID may say so, too.
                error = raised if error is None or not isinstance(raised, nvml.NVMLError_NotFound) else error
        if isinstance(error, self._lost):
            raise GpuLost(str(error))
        if isinstance(error, nvml.NVMLError_NoPermission):
            raise NvmlUnavailable(_NO_PERMISSION)
        raise NvmlUnavailable(f"NVML does not know the GPU {identity.uuid or identity.pci_bus_id} ({error})")

    def _read_facts(self, is_mig: bool) -> GpuFacts:
        nvml, get = self._nvml, self._get
        threshold = "nvmlDeviceGetTemperatureThreshold"
        memory = get("memory", "nvmlDeviceGetMemoryInfo")
        causes = (
            nvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS,
            nvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR,
        )
        pages = [get("retired pages", "nvmlDeviceGetRetiredPages", cause) for cause in causes]
        facts = GpuFacts(
            index=get("index", "nvmlDeviceGetIndex"),
            name=get("name", "nvmlDeviceGetName") or GpuFacts.name,
            is_mig=is_mig,
            memory_total_mb=None if memory is None else memory.total / 1e6,
            slowdown_c=get("slowdown", threshold, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
            max_operating_c=get("maximum", threshold, nvml.NVML_TEMPERATURE_THRESHOLD_GPU_MAX),
            power_limit_w=_scaled(get("power limit", "nvmlDeviceGetEnforcedPowerLimit"), 1e-3),
            max_sm_clock_mhz=get("maximum clocks", "nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
            max_memory_clock_mhz=get("maximum clocks", "nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM),
            retired_pages=None if None in pages else sum(len(each) for each in pages),
        )
        # Newer GPUs have a margin instead of thresholds, and remapped rows instead of retired pages.
        optional = {"slowdown", "maximum", "retired pages"}
        self.unsupported = [name for name in self.unsupported if name not in optional]
        return facts

    def _reason(self, name: str) -> int:
        """Bit of a reason; pynvml has called it otherwise before driver 535."""
        old = getattr(self._nvml, f"nvmlClocksThrottleReason{name}", 0)
        return getattr(self._nvml, f"nvmlClocksEventReason{name}", old)

    def _get(self, what: str, functions: str | tuple[str, ...], *arguments: Any) -> Any:
        """Call the first function that exists; None if the value is not available."""
        if what in self.unsupported or what in self.forbidden:
            return None
        names = (functions,) if isinstance(functions, str) else functions
        for name in names:
            try:
                value = getattr(self._nvml, name)(self._handle, *arguments)
            except (self._nvml.NVMLError, AttributeError) as error:
                is_unknown = isinstance(error, (self._nvml.NVMLError_FunctionNotFound, AttributeError))
                if is_unknown and name != names[-1]:
                    continue
                return self._leave_out(what, error)
            self._failures.pop(what, None)
            return value
        return None

    def _leave_out(self, what: str, error: Exception) -> None:
        """Remember that a value is not available, this time or ever."""
        if isinstance(error, self._lost):
            raise GpuLost(str(error)) from None
        if isinstance(error, self._nvml.NVMLError_NoPermission):
            self.forbidden.append(what)
            return
        self._failures[what] = self._failures.get(what, 0) + 1
        if isinstance(error, self._absent) or self._failures[what] >= _MOST_FAILURES:
            self.unsupported.append(what)

    def _listen(self) -> None:
        """Register for Xid errors."""
        nvml = self._nvml
        try:
            self._events = nvml.nvmlEventSetCreate()
            nvml.nvmlDeviceRegisterEvents(self._handle, nvml.nvmlEventTypeXidCriticalError, self._events)
        except (nvml.NVMLError, AttributeError) as error:
            self._failures["Xid errors"] = _MOST_FAILURES  # one failure is enough
            self._leave_out("Xid errors", error)

    def _take_xids(self) -> tuple[int, ...]:
        xids: list[int] = []
        while "Xid errors" not in self.unsupported + self.forbidden and len(xids) < _MOST_XIDS:
            try:
                xids.append(int(self._nvml.nvmlEventSetWait(self._events, 0).eventData))
            except self._nvml.NVMLError_Timeout:  # there are no more
                break
            except self._nvml.NVMLError as error:
                if not isinstance(error, self._lost):  # any GPU; other values tell whether it is this one
                    self._leave_out("Xid errors", error)
                break
        return tuple(xids)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
