from __future__ import annotations

import inspect
import re
import sys
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from tests.support.fake_nvml import (
    APPLICATION,
    ERRORS,
    HEAT,
    IDENTITY,
    IDLE,
    POWER,
    SYNC,
    UUID,
    FakeNvml,
    State,
)
from yolo_lightning.monitoring.gpu_health import nvml
from yolo_lightning.monitoring.gpu_health.nvml import (
    GpuIdentity,
    GpuLost,
    NvmlGpu,
    NvmlUnavailable,
    identify,
    open_gpu,
)
from yolo_lightning.monitoring.gpu_health.readings import COSTLY_REASONS, GpuReading

REASONS = {f"nvmlClocksEventReason{name}" for name in (*COSTLY_REASONS, "GpuIdle")}


def names_in_use() -> set[str]:
    """Of pynvml, in the source that reads it."""
    return set(re.findall(r"\b(nvml[A-Z]\w+|NVML(?:Error)?_\w+)\b", inspect.getsource(nvml))) | REASONS


def test_all_names_in_use_are_pynvmls_and_the_fakes() -> None:
    names = names_in_use() - {"nvmlClocksEventReason", "nvmlClocksThrottleReason"}  # completed below
    assert len(names) > 50
    assert [name for name in sorted(names) if not hasattr(pynvml, name)] == []
    assert [name for name in sorted(names) if not hasattr(FakeNvml(), name)] == []


def test_the_fake_is_like_pynvml() -> None:
    names = [name for name in dir(FakeNvml) if name.startswith(("nvml", "NVML_"))]
    for name in names:
        ours, theirs = getattr(FakeNvml(), name), getattr(pynvml, name)
        if callable(ours):
            assert [*inspect.signature(ours).parameters] == [*inspect.signature(theirs).parameters], name
        else:
            assert ours == theirs, name
    for name, code in ERRORS.items():
        error = getattr(pynvml, f"NVMLError_{name}")
        assert issubclass(error, pynvml.NVMLError)
        assert error().value == code == getattr(FakeNvml(), f"NVMLError_{name}").value


def test_older_names_of_the_reasons_have_the_same_bits() -> None:
    for name in REASONS:
        assert getattr(pynvml, name) == getattr(pynvml, name.replace("Event", "Throttle"))


def opened(*states: State, **options: Any) -> tuple[FakeNvml, NvmlGpu]:
    """A GPU at its first state."""
    fake = FakeNvml(states, **options)
    gpu = open_gpu(IDENTITY, fake)
    fake.clock()
    return fake, gpu


def test_values_have_their_units() -> None:
    state = State(
        utilisation=75, memory_used=2_500_000, temperature=71, power_mw=350_500, sm_clock=1755,
        reasons=HEAT | POWER, ecc=(7, 2), rows=(1, 2, 1, 0), pcie_kb_s=(2_000_000, 500_000), xids=(31, 43),
    )  # fmt: skip
    _, gpu = opened(state)
    assert gpu.read() == GpuReading(
        utilisation=0.75, memory_used_mb=2.5, temperature_c=71, power_w=350.5, sm_clock_mhz=1755,
        memory_clock_mhz=2619, throttling=frozenset({"SwThermalSlowdown", "SwPowerCap"}), is_idle=False,
        pcie_rx_mb_s=500, pcie_tx_mb_s=2000, ecc_corrected=7, ecc_uncorrected=2, remapped_rows=3,
        remapping_pending=True, remapping_failed=False, xids=(31, 43),
    )  # fmt: skip
    facts = gpu.facts
    assert (facts.index, facts.name, facts.title) == (3, "NVIDIA Test", "GPU 3 (NVIDIA Test)")
    assert (facts.memory_total_mb, facts.power_limit_w) == (80_000, 700)
    assert (facts.slowdown_c, facts.max_operating_c, facts.limit_c) == (92, 87, 87)
    assert (facts.max_sm_clock_mhz, facts.max_memory_clock_mhz, facts.retired_pages) == (2000, 2619, 3)
    assert gpu.unsupported == gpu.forbidden == []


def test_what_costs_nothing_is_no_throttling() -> None:
    _, gpu = opened(State(reasons=IDLE | APPLICATION | SYNC))
    reading = gpu.read()
    assert reading.throttling == frozenset()
    assert reading.is_idle


def test_a_hasty_look_leaves_out_what_takes_long() -> None:
    fake, gpu = opened(State())
    looks = fake.rare_looks
    reading = gpu.read(thoroughly=False)
    assert fake.rare_looks == looks
    assert reading.temperature_c == 60
    assert (reading.pcie_rx_mb_s, reading.ecc_uncorrected, reading.remapping_failed) == (None, None, None)


def test_an_xid_is_told_once() -> None:
    _, gpu = opened(State(xids=(79,)))
    assert [gpu.read().xids, gpu.read().xids] == [(79,), ()]


@pytest.mark.parametrize(
    ("error", "kind"),
    [("NotSupported", "unsupported"), ("FunctionNotFound", "unsupported"), ("NoPermission", "forbidden")],
)
def test_a_reading_that_is_not_to_be_had_is_left_out(error: str, kind: str) -> None:
    state = State(errors={"nvmlDeviceGetPcieThroughput": error, "nvmlDeviceGetPowerUsage": error})
    _, gpu = opened(state, State())
    reading = gpu.read()
    assert (reading.power_w, reading.pcie_rx_mb_s, reading.temperature_c) == (None, None, 60)
    assert sorted(getattr(gpu, kind)) == ["PCIe throughput", "power"]
    assert len(gpu.unsupported + gpu.forbidden) == 2


def test_a_passing_failure_is_no_reason_to_give_up() -> None:
    failing = State(errors={"nvmlDeviceGetTemperature": "Unknown"})
    twice = [failing, failing, State()]
    fake, gpu = opened(*twice, *twice, failing, *twice)
    temperatures = []
    for _ in fake.recording:
        temperatures.append(gpu.read().temperature_c)
        fake.clock()
    assert temperatures == [None, None, 60, None, None, 60, None, None, None, None]
    assert gpu.unsupported == ["temperature"]


@pytest.mark.parametrize("way", ["driver", "package"])
def test_older_drivers_and_packages_have_another_name_for_the_reasons(way: str) -> None:
    new = "nvmlDeviceGetCurrentClocksEventReasons"
    errors = {new: "FunctionNotFound"} if way == "driver" else {}
    _, gpu = opened(State(reasons=POWER, errors=errors), missing=[new] if way == "package" else [])
    assert gpu.read().throttling == {"SwPowerCap"}
    assert gpu.unsupported == []


def test_a_gpu_without_thresholds_has_a_margin() -> None:
    _, gpu = opened(State(temperature=84, errors={"nvmlDeviceGetTemperatureThreshold": "NotSupported"}))
    assert gpu.facts.limit_c is None
    assert gpu.read().margin_c == 6
    assert gpu.unsupported == []


@pytest.mark.parametrize("error", ["GpuIsLost", "ResetRequired"])
def test_a_lost_gpu_is_told_with_its_last_error(error: str) -> None:
    fake, gpu = opened(State(), State(xids=(79,), errors={"*": error}))
    gpu.read()
    fake.clock()
    with pytest.raises(GpuLost, match="NVML error") as raised:
        gpu.read()
    assert raised.value.xids == (79,)
    gpu.close()
    assert (fake.users, fake.sets) == (0, 0)


def test_the_gpu_is_found_by_its_uuid_or_its_place_or_its_instance() -> None:
    assert NvmlGpu(_started(), GpuIdentity(UUID)).facts.index == 3
    assert NvmlGpu(_started(), GpuIdentity(f"GPU-{UUID}")).facts.index == 3
    assert NvmlGpu(_started(), GpuIdentity("other", IDENTITY.pci_bus_id)).facts.index == 3
    facts = NvmlGpu(_started(mig=True), IDENTITY).facts
    assert facts.is_mig
    assert "all of the GPU" in facts.title


def _started(**options: Any) -> FakeNvml:
    fake = FakeNvml(**options)
    fake.nvmlInit()
    return fake


@pytest.mark.parametrize(
    ("errors", "expected", "match"),
    [
        ({}, NvmlUnavailable, "does not know the GPU other"),
        ({"nvmlDeviceGetHandleByUUID": "NoPermission"}, NvmlUnavailable, "permission denied"),
        ({"nvmlDeviceGetHandleByUUID": "GpuIsLost"}, GpuLost, "NVML error 15"),
    ],
)
def test_a_gpu_that_is_not_found_leaves_nothing_open(
    errors: dict[str, str], expected: type[Exception], match: str
) -> None:
    fake = FakeNvml([State(errors=errors)])
    with pytest.raises(expected, match=match):
        open_gpu(GpuIdentity("other", "00000000:00:00.0"), fake)
    assert fake.users == 0


def test_another_lost_gpu_does_not_hide_this_one() -> None:
    fake = FakeNvml([State(errors={"nvmlDeviceGetHandleByUUID": "GpuIsLost"})])
    assert open_gpu(IDENTITY, fake).facts.index == 3


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
def test_a_driver_that_does_not_answer_is_explained(error: str, sentence: str) -> None:
    with pytest.raises(NvmlUnavailable, match=sentence):
        open_gpu(IDENTITY, FakeNvml(init=error))


def test_without_the_package_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NvmlUnavailable, match="pip install nvidia-ml-py"):
        open_gpu(IDENTITY)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a driver")
def test_the_real_pynvml_says_that_there_is_no_driver() -> None:
    with pytest.raises(NvmlUnavailable):
        open_gpu(IDENTITY)


def test_a_torch_device_has_the_identity_that_nvml_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert identify(torch.device("cpu")) is None
    properties = SimpleNamespace(uuid=UUID, pci_domain_id=0, pci_bus_id=0x3B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert identify(torch.device("cuda", 1)) == IDENTITY
    del properties.pci_bus_id
    assert identify(torch.device("cuda", 1)) == GpuIdentity(UUID)
    monkeypatch.setattr(torch.version, "cuda", None)  # as on ROCm
    assert identify(torch.device("cuda", 1)) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_gpu_is_the_one_that_torch_means() -> None:
    device = torch.device("cuda", 0)
    identity = identify(device)
    assert identity is not None
    gpu = open_gpu(identity)
    reading = gpu.read()
    gpu.close()
    assert gpu.facts.name in torch.cuda.get_device_name(device)
    assert 0 < (reading.temperature_c or 50) < 120
    assert (gpu.facts.memory_total_mb or 0) * 1e6 >= torch.cuda.get_device_properties(device).total_memory
