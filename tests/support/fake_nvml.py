"""In the place of pynvml's functions: one GPU that plays a recording, with pynvml's constants and errors."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from yolo_lightning.monitoring.gpu_health import nvml, sampler

DEVICE = torch.device("cpu")
"""The device that is said to be the GPU."""
PCI_BUS_ID = "00000000:3b:00.0"
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
        init: name of the error that starting NVML ends with.
    """

    def __init__(
        self,
        recording: Sequence[State] = (State(),),
        init: str | None = None,
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

    def install(self, patch: pytest.MonkeyPatch) -> FakeNvml:
        """Puts itself in the place of pynvml's functions, and its GPU and its clock in that of the run."""
        for name in dir(self):
            if name.startswith("nvml"):
                patch.setattr(pynvml, name, getattr(self, name))
        patch.setattr(nvml, "pci_bus_id", lambda device: PCI_BUS_ID)
        patch.setattr(sampler, "monotonic", self.clock)
        patch.setattr(sampler, "PERIOD_S", 1e-3)
        return self

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
            raise _error(name)

    def nvmlInit(self) -> None:
        if self._init:
            raise _error(self._init)
        self.users += 1

    def nvmlShutdown(self) -> None:
        self.users -= 1

    def nvmlDeviceGetHandleByPciBusId(self, pciBusId: str) -> Any:
        self._fail("nvmlDeviceGetHandleByPciBusId")
        if pciBusId != PCI_BUS_ID:
            raise _error("NotFound")
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
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
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
        assert counterType == pynvml.NVML_VOLATILE_ECC
        return self._ask(handle, "nvmlDeviceGetTotalEccErrors").ecc[errorType]

    def nvmlDeviceGetRemappedRows(self, device: Any) -> tuple[int, int, int, int]:
        self.rare_looks += 1
        return self._ask(device, "nvmlDeviceGetRemappedRows").rows

    def nvmlDeviceGetPcieThroughput(self, device: Any, counter: int) -> int:
        return self._ask(device, "nvmlDeviceGetPcieThroughput").pcie_kb_s[counter]

    def nvmlEventSetCreate(self) -> Any:
        self._fail("nvmlEventSetCreate")
        self.sets += 1
        return "events"

    def nvmlDeviceRegisterEvents(self, handle: Any, eventTypes: int, eventSet: Any) -> None:
        self._ask(handle, "nvmlDeviceRegisterEvents")
        assert (eventTypes, eventSet) == (pynvml.nvmlEventTypeXidCriticalError, "events")

    def nvmlEventSetWait(self, eventSet: Any, timeoutms: int) -> Any:
        assert (eventSet, timeoutms) == ("events", 0)
        if not self._xids:
            raise _error("Timeout")
        return SimpleNamespace(eventType=8, eventData=self._xids.pop(0))

    def nvmlEventSetFree(self, eventSet: Any) -> None:
        self.sets -= 1


def _error(name: str) -> pynvml.NVMLError:
    return getattr(pynvml, f"NVMLError_{name}")()
