from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from tests.support.fake_nvml import (
    APPLICATION,
    DEVICE,
    HEAT,
    IDLE,
    PCI_BUS_ID,
    POWER,
    SYNC,
    FakeNvml,
    State,
)
from yolo_lightning.monitoring.gpu_health import nvml
from yolo_lightning.monitoring.gpu_health.nvml import (
    LOST,
    THROTTLE_REASONS,
    GpuReading,
    NvmlGpu,
    NvmlUnavailable,
    is_nvidia,
    open_gpu,
    pci_bus_id,
)

REASONS = {f"nvmlClocksEventReason{name}" for name in THROTTLE_REASONS}


def names_in_use() -> set[str]:
    """Of pynvml, in the source that reads it."""
    return set(re.findall(r"\b(nvml[A-Z]\w+|NVML(?:Error)?_\w+)\b", inspect.getsource(nvml))) | REASONS


def test_all_names_in_use_are_pynvmls_and_the_fakes() -> None:
    names = names_in_use() - {"nvmlClocksEventReason"}  # completed above
    assert len(names) > 40
    assert [name for name in sorted(names) if not hasattr(pynvml, name)] == []
    functions = [name for name in sorted(names) if callable(getattr(pynvml, name)) and name[0] == "n"]
    assert len(functions) > 20
    assert [name for name in functions if not hasattr(FakeNvml(), name)] == []


def test_the_fake_is_like_pynvml() -> None:
    for name in (name for name in dir(FakeNvml) if name.startswith("nvml")):
        ours, theirs = getattr(FakeNvml(), name), getattr(pynvml, name)
        assert [*inspect.signature(ours).parameters] == [*inspect.signature(theirs).parameters], name
    reasons = {"SwPowerCap": POWER, "SwThermalSlowdown": HEAT, "GpuIdle": IDLE, "SyncBoost": SYNC}
    for name, bit in reasons.items():
        assert getattr(pynvml, f"nvmlClocksEventReason{name}") == bit


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that makes a GPU at its first state."""
    with ExitStack() as stack:

        def make(*states: State) -> tuple[FakeNvml, NvmlGpu]:
            fake = FakeNvml(states).install(monkeypatch)
            gpu = stack.enter_context(open_gpu(DEVICE))
            fake.clock()
            return fake, gpu

        yield make


def test_values_have_their_units(opened: Any) -> None:
    state = State(
        utilisation=75, memory_used=2_500_000, temperature=71, power_mw=350_500, sm_clock=1755,
        reasons=HEAT | POWER, ecc=(7, 2), rows=(1, 2, 1, 0), pcie_kb_s=(2_000_000, 500_000), xids=(31, 43),
    )  # fmt: skip
    _, gpu = opened(state)
    values = {
        "utilisation": 0.75, "memory_used_mb": 2.5, "temperature_c": 71, "power_w": 350.5,
        "sm_clock_mhz": 1755, "memory_clock_mhz": 2619, "pcie_rx_mb_s": 500, "pcie_tx_mb_s": 2000,
    }  # fmt: skip
    counters = {
        "ecc_corrected": 7, "ecc_uncorrected": 2, "remapped_rows": 3, "remapping_pending": 1,
        "remapping_failed": 0,
    }  # fmt: skip
    assert gpu.read() == GpuReading(values, counters, frozenset({"SwThermalSlowdown", "SwPowerCap"}))
    assert gpu.take_xids() == [31, 43]
    assert gpu.facts == {
        "index": 3, "name": "NVIDIA Test", "memory_total_mb": 80_000, "power_limit_w": 700, "slowdown_c": 92,
        "max_operating_c": 87, "max_sm_clock_mhz": 2000, "max_memory_clock_mhz": 2619,
    }  # fmt: skip
    assert gpu.left_out == {}


def test_what_costs_nothing_is_no_throttling(opened: Any) -> None:
    fake, gpu = opened(State(reasons=APPLICATION | SYNC), State(reasons=IDLE | POWER))
    assert gpu.read().throttling == frozenset()
    fake.clock()
    assert gpu.read().throttling == frozenset()


def test_an_older_driver_has_another_name_for_the_reasons(opened: Any) -> None:
    _, gpu = opened(
        State(reasons=POWER, errors={"nvmlDeviceGetCurrentClocksEventReasons": "FunctionNotFound"})
    )
    assert gpu.read().throttling == {"SwPowerCap"}
    assert gpu.left_out == {}
    for name in REASONS:
        assert getattr(pynvml, name) == getattr(pynvml, name.replace("Event", "Throttle"))


def test_a_hasty_look_leaves_out_what_takes_long(opened: Any) -> None:
    fake, gpu = opened(State())
    looks = fake.rare_looks
    reading = gpu.read(thoroughly=False)
    assert fake.rare_looks == looks
    assert reading.values["temperature_c"] == 60
    assert "pcie_rx_mb_s" not in reading.values and reading.counters == {}


def test_an_xid_is_told_once(opened: Any) -> None:
    _, gpu = opened(State(xids=(79,)))
    assert [gpu.take_xids(), gpu.take_xids()] == [[79], []]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("NotSupported", "cannot read"),
        ("FunctionNotFound", "cannot read"),
        ("NoPermission", "permission denied for"),
    ],
)
def test_a_reading_that_is_not_to_be_had_is_left_out(error: str, reason: str, opened: Any) -> None:
    state = State(errors={"nvmlDeviceGetPcieThroughput": error, "nvmlDeviceGetPowerUsage": error})
    _, gpu = opened(state, State())
    values = gpu.read().values
    assert values["temperature_c"] == 60
    assert values.keys().isdisjoint({"power_w", "pcie_rx_mb_s"})
    assert gpu.left_out == {"power": reason, "PCIe throughput": reason}


def test_a_passing_failure_is_no_reason_to_give_up(opened: Any) -> None:
    failing = State(errors={"nvmlDeviceGetTemperature": "Unknown"})
    fake, gpu = opened(failing, failing, State(), *[failing] * 5, State())
    temperatures = []
    for _ in fake.recording:
        temperatures.append(gpu.read().values.get("temperature_c"))
        fake.clock()
    assert temperatures == [None, None, 60, *[None] * 5, 60]
    assert gpu.left_out == {}


def test_a_gpu_without_thresholds_has_a_margin(opened: Any) -> None:
    _, gpu = opened(State(temperature=84, errors={"nvmlDeviceGetTemperatureThreshold": "NotSupported"}))
    assert gpu.facts["slowdown_c"] == 90
    assert gpu.left_out == {}


@pytest.mark.parametrize("error", ["GpuIsLost", "ResetRequired"])
def test_a_lost_gpu_is_told_with_its_last_error(error: str, opened: Any) -> None:
    fake, gpu = opened(State(), State(xids=(79,), errors={"*": error}))
    gpu.read()
    fake.clock()
    with pytest.raises(LOST, match="GPU"):
        gpu.read()
    assert gpu.take_xids() == [79]


@pytest.mark.parametrize(
    ("errors", "expected", "match"),
    [
        (
            {"nvmlDeviceGetHandleByPciBusId": "NotFound"},
            NvmlUnavailable,
            f"does not know the GPU {PCI_BUS_ID}",
        ),
        ({"nvmlDeviceGetHandleByPciBusId": "NoPermission"}, NvmlUnavailable, "permission denied"),
        ({"nvmlDeviceGetHandleByPciBusId": "GpuIsLost"}, pynvml.NVMLError_GpuIsLost, "GPU is lost"),
    ],
)
def test_a_gpu_that_is_not_found_leaves_nothing_open(
    errors: dict[str, str], expected: type[Exception], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeNvml([State(errors=errors)]).install(monkeypatch)
    with pytest.raises(expected, match=match), open_gpu(DEVICE):
        pass
    assert fake.users == 0


def test_a_gpu_that_is_closed_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml().install(monkeypatch)
    with open_gpu(DEVICE):
        assert (fake.users, fake.sets) == (1, 1)
    assert (fake.users, fake.sets) == (0, 0)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("LibraryNotFound", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"),
        ("DriverNotLoaded", "driver is not loaded"),
        ("LibRmVersionMismatch", "restart the machine"),
        ("NoPermission", "/dev/nvidiactl"),
        ("Unknown", "NVML does not start"),
    ],
)
def test_a_driver_that_does_not_answer_is_explained(
    error: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeNvml(init=error).install(monkeypatch)
    with pytest.raises(NvmlUnavailable, match=sentence), open_gpu(DEVICE):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a driver")
def test_the_real_pynvml_says_that_there_is_no_driver() -> None:
    with pytest.raises(NvmlUnavailable), open_gpu(DEVICE):
        pass


def test_a_torch_device_has_the_address_that_nvml_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 1)
    properties = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x3B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert pci_bus_id(device) == PCI_BUS_ID
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert is_nvidia(device) and not is_nvidia(torch.device("cpu"))
    monkeypatch.setattr(torch.version, "cuda", None)  # as on ROCm
    assert not is_nvidia(device)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_gpu_is_the_one_that_torch_means() -> None:
    device = torch.device("cuda", 0)
    with open_gpu(device) as gpu:
        values = gpu.read().values
    assert gpu.facts["name"] in torch.cuda.get_device_name(device)
    assert 0 < values.get("temperature_c", 50) < 120
    assert gpu.facts["memory_total_mb"] * 1e6 >= torch.cuda.get_device_properties(device).total_memory
