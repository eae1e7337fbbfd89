"""In the place of pynvml: one GPU that plays a recording, with pynvml's names, constants and errors."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from yolo_lightning.monitoring.gpu_health.nvml import GpuIdentity

UUID = "8f1c2d3e-0000-1111-2222-333344445555"
IDENTITY = GpuIdentity(UUID, "00000000:3b:00.0")


class NVMLError(Exception):
    """As in pynvml: each code has a class of its own."""

    value = 0

    def __str__(self) -> str:
        return f"NVML error {self.value}"


def _error(name: str, code: int) -> type[NVMLError]:
    return type(f"NVMLError_{name}", (NVMLError,), {"value": code})


ERRORS = {
    "InvalidArgument": 2,
    "NotSupported": 3,
    "NoPermission": 4,
    "NotFound": 6,
    "DriverNotLoaded": 9,
    "Timeout": 10,
    "LibraryNotFound": 12,
    "FunctionNotFound": 13,
    "GpuIsLost": 15,
    "ResetRequired": 16,
    "LibRmVersionMismatch": 18,
    "Unknown": 999,
}
POWER, HW, HEAT, HW_HEAT, BRAKE = 4, 8, 32, 64, 128
"""Bits of reasons for lower clocks."""
IDLE, APPLICATION, SYNC = 1, 2, 16


@dataclass(frozen=True)
class State:
    """What the GPU tells at one look."""

    utilisation: int = 95
    memory_used: int = 40_000_000_000
    temperature: int = 60
    power_mw: int = 500_000
    sm_clock: int = 1980
    memory_clock: int = 2619
    reasons: int = 0
    ecc: tuple[int, int] = (0, 0)
    """Corrected and uncorrected."""
    rows: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Remapped for corrected and uncorrected errors, pending, failed."""
    pcie_kb_s: tuple[int, int] = (3_000_000, 1_000_000)
    """Sent and received."""
    xids: tuple[int, ...] = ()
    errors: dict[str, str] = field(default_factory=dict)
    """Function that fails -> name of its error, or of "*": all of them."""


class FakeNvml:
    """One GPU, index 3 on bus 3b, whose states follow each other as its clock is asked.

    Args:
        recording: each state lasts for one second; the last one stays.
        missing: functions that this pynvml does not have.
        init: name of the error that starting NVML ends with.
        mig: whether the identity is that of an instance of the GPU.
    """

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 1
    NVML_TEMPERATURE_THRESHOLD_GPU_MAX = 3
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_MEMORY_ERROR_TYPE_CORRECTED = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    NVML_PCIE_UTIL_TX_BYTES = 0
    NVML_PCIE_UTIL_RX_BYTES = 1
    NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS = 0
    NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR = 1
    nvmlEventTypeXidCriticalError = 8
    nvmlClocksEventReasonGpuIdle = IDLE
    nvmlClocksEventReasonSwPowerCap = POWER
    nvmlClocksEventReasonHwSlowdown = HW
    nvmlClocksEventReasonSwThermalSlowdown = HEAT
    nvmlClocksEventReasonHwThermalSlowdown = HW_HEAT
    nvmlClocksEventReasonHwPowerBrakeSlowdown = BRAKE

    def __init__(
        self,
        recording: Sequence[State] = (State(),),
        missing: Sequence[str] = (),
        init: str | None = None,
        mig: bool = False,
    ) -> None:
        self.recording = recording
        self.now_s = 0.0
        self.played = threading.Event()
        """Set when the last state has been reached."""
        self.users = 0
        """How often NVML was started and not shut down."""
        self.sets = 0
        """Event sets that are not freed."""
        self.rare_looks = 0
        self._state = State() if not recording else recording[0]
        self._xids: list[int] = []
        self._init = init
        self._mig = mig
        self._missing = missing

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("NVMLError_"):
            return _CLASSES[name.removeprefix("NVMLError_")]
        if name.startswith("nvml") and name in object.__getattribute__(self, "_missing"):
            raise AttributeError(name)
        return object.__getattribute__(self, name)

    def clock(self) -> float:
        """Goes to the next state, a second later."""
        self.now_s += 1
        position = int(self.now_s) - 1
        self._state = self.recording[min(position, len(self.recording) - 1)]
        if position < len(self.recording):
            self._xids += self._state.xids
        if position >= len(self.recording) - 1:
            self.played.set()
        return self.now_s

    def _fail(self, function: str) -> None:
        errors = self._state.errors
        name = errors.get(function, errors.get("*"))
        if name:
            raise _CLASSES[name]

    def nvmlInit(self) -> None:
        if self._init:
            raise _CLASSES[self._init]
        self.users += 1

    def nvmlShutdown(self) -> None:
        self.users -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        self._fail("nvmlDeviceGetHandleByUUID")
        if uuid != f"{'MIG' if self._mig else 'GPU'}-{UUID}":
            raise _CLASSES["NotFound"]
        return "instance" if self._mig else "gpu"

    def nvmlDeviceGetHandleByPciBusId(self, pciBusId: str) -> Any:
        self._fail("nvmlDeviceGetHandleByPciBusId")
        if pciBusId != IDENTITY.pci_bus_id:
            raise _CLASSES["NotFound"]
        return "gpu"

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, migDevice: Any) -> Any:
        assert migDevice == "instance"
        return "gpu"

    def _ask(self, handle: Any, function: str) -> State:
        assert handle == "gpu" and self.users > 0
        self._fail(function)
        return self._state

    def nvmlDeviceGetIndex(self, handle: Any) -> int:
        self._ask(handle, "nvmlDeviceGetIndex")
        return 3

    def nvmlDeviceGetName(self, handle: Any) -> str:
        self._ask(handle, "nvmlDeviceGetName")
        return "NVIDIA Test"

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        state = self._ask(handle, "nvmlDeviceGetUtilizationRates")
        return SimpleNamespace(gpu=state.utilisation, memory=50)

    def nvmlDeviceGetMemoryInfo(self, handle: Any, version: Any = None) -> Any:
        state = self._ask(handle, "nvmlDeviceGetMemoryInfo")
        return SimpleNamespace(total=80_000_000_000, used=state.memory_used, free=0)

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return self._ask(handle, "nvmlDeviceGetTemperature").temperature

    def nvmlDeviceGetTemperatureThreshold(self, handle: Any, threshold: int) -> int:
        self._ask(handle, "nvmlDeviceGetTemperatureThreshold")
        return {1: 92, 3: 87}[threshold]

    def nvmlDeviceGetMarginTemperature(self, handle: Any) -> int:
        return 90 - self._ask(handle, "nvmlDeviceGetMarginTemperature").temperature

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        return self._ask(handle, "nvmlDeviceGetPowerUsage").power_mw

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any) -> int:
        self._ask(handle, "nvmlDeviceGetEnforcedPowerLimit")
        return 700_000

    def nvmlDeviceGetClockInfo(self, handle: Any, type: int) -> int:
        state = self._ask(handle, "nvmlDeviceGetClockInfo")
        return {1: state.sm_clock, 2: state.memory_clock}[type]

    def nvmlDeviceGetMaxClockInfo(self, handle: Any, type: int) -> int:
        self._ask(handle, "nvmlDeviceGetMaxClockInfo")
        return {1: 2000, 2: 2619}[type]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: Any) -> int:
        return self._ask(handle, "nvmlDeviceGetCurrentClocksEventReasons").reasons

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any) -> int:
        return self._ask(handle, "nvmlDeviceGetCurrentClocksThrottleReasons").reasons

    def nvmlDeviceGetTotalEccErrors(self, handle: Any, errorType: int, counterType: int) -> int:
        assert counterType == self.NVML_VOLATILE_ECC
        return self._ask(handle, "nvmlDeviceGetTotalEccErrors").ecc[errorType]

    def nvmlDeviceGetRemappedRows(self, device: Any) -> tuple[int, int, int, int]:
        self.rare_looks += 1
        return self._ask(device, "nvmlDeviceGetRemappedRows").rows

    def nvmlDeviceGetRetiredPages(self, device: Any, sourceFilter: int) -> list[int]:
        self._ask(device, "nvmlDeviceGetRetiredPages")
        return [4096] * (sourceFilter + 1)

    def nvmlDeviceGetPcieThroughput(self, device: Any, counter: int) -> int:
        return self._ask(device, "nvmlDeviceGetPcieThroughput").pcie_kb_s[counter]

    def nvmlEventSetCreate(self) -> Any:
        self._fail("nvmlEventSetCreate")
        self.sets += 1
        return "events"

    def nvmlDeviceRegisterEvents(self, handle: Any, eventTypes: int, eventSet: Any) -> None:
        self._ask(handle, "nvmlDeviceRegisterEvents")
        assert (eventTypes, eventSet) == (self.nvmlEventTypeXidCriticalError, "events")

    def nvmlEventSetWait(self, eventSet: Any, timeoutms: int) -> Any:
        assert (eventSet, timeoutms) == ("events", 0)
        if not self._xids:
            raise _CLASSES["Timeout"]
        return SimpleNamespace(eventType=8, eventData=self._xids.pop(0))

    def nvmlEventSetFree(self, eventSet: Any) -> None:
        self.sets -= 1


_CLASSES = {name: _error(name, code) for name, code in ERRORS.items()}
