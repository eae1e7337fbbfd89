from __future__ import annotations

import json
import threading
from contextlib import nullcontext
from typing import Any

import pytest

from tests.support.fake_nvml import DEVICE, HEAT, FakeNvml, State
from yolo_lightning.monitoring.gpu_health import sampler
from yolo_lightning.monitoring.gpu_health.nvml import NvmlGpu
from yolo_lightning.monitoring.gpu_health.sampler import GpuSampler
from yolo_lightning.monitoring.gpu_health.summary import scalars_of_ranks, table

WELL = State()
LOST = State(errors={"*": "GpuIsLost"})
PATIENCE_S = 60
"""For what takes milliseconds."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 3 s that a thread is given to end are for a driver that hangs, not for a machine that is busy."""
    monkeypatch.setattr(sampler, "_END_S", PATIENCE_S)


def ended(fake: FakeNvml, **options: Any) -> tuple[GpuSampler, list[str]]:
    """A sampler that has ended, when the recording was played or before, and what it said."""
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        fake.install(patch)
        found = GpuSampler(DEVICE, lines.append, **options)
        while found._thread.is_alive() and not fake.played.wait(0.01):
            pass
        found.stop()
    assert not found._thread.is_alive()
    assert (fake.users, fake.sets) == (0, 0)
    return found, lines


def test_what_was_seen_is_kept_in_sums() -> None:
    fake = FakeNvml([*[WELL] * 10, *[State(sm_clock=990, reasons=HEAT, temperature=80)] * 10])
    found, lines = ended(fake)
    seconds = fake.now_s - 1
    report = found.report()
    assert report["seconds"] == seconds
    assert report["throttled_seconds"] == pytest.approx(seconds - 9)
    assert report["lost_seconds"] == pytest.approx((seconds - 9) / 2)
    assert report["temperature_c"]["max"] == 80
    assert report["temperature_c"]["min"] == 60
    assert (report["index"], report["name"], report["ecc_uncorrected"]) == (3, "NVIDIA Test", 0)
    assert [line.split(": ")[1] for line in report["faults"]] == ["clocks are lowered by heat"]
    assert report["faults"] == lines
    assert None not in report.values()
    json.dumps(report, allow_nan=False)
    assert found.take().scalars()["throttled_fraction"] == pytest.approx((seconds - 9) / seconds)
    assert found.take().scalars() == {}  # since it was last taken
    assert found.report() == report  # from the start


def test_most_looks_leave_out_what_takes_long() -> None:
    fake = FakeNvml([WELL] * 21)
    found, _ = ended(fake)
    looks = found.report()["temperature_c"]["readings"]
    assert fake.rare_looks == found.report()["pcie_rx_mb_s"]["readings"] == (looks + 4) // 5


def test_a_lost_gpu_ends_the_sampling() -> None:
    found, lines = ended(FakeNvml([*[WELL] * 5, State(xids=(79,), errors={"*": "GpuIsLost"})]))
    assert ["Xid 79" in line for line in lines] == [True, False]
    assert "lost (NVML: GPU is lost)" in lines[1]
    assert found.report()["seconds"] == 4
    assert found.report()["faults"] == lines


def test_a_gpu_that_was_lost_before_is_one_line() -> None:
    found, [line] = ended(FakeNvml([LOST]))
    assert "lost" in line
    assert found.report() == {"faults": [line]}


@pytest.mark.parametrize(
    ("error", "text"), [("DriverNotLoaded", "driver is not loaded"), ("NoPermission", "permission denied")]
)
def test_without_nvml_there_is_one_line_and_an_end(error: str, text: str) -> None:
    found, [line] = ended(FakeNvml(init=error), where=", rank 2 on node")
    assert line.startswith("GPU health, rank 2 on node: not watched: ")
    assert text in line
    assert found.report() == {"faults": [line]}
    assert found.take().scalars() == {}


def test_whatever_goes_wrong_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise TypeError("no such thing")

    monkeypatch.setattr(NvmlGpu, "read", fail)
    _, lines = ended(FakeNvml([WELL] * 5))
    assert lines == ["GPU health: not watched any more: TypeError: no such thing"]


def test_an_output_that_is_closed_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(line: str) -> None:
        raise ValueError("I/O operation on closed file")

    fake = FakeNvml([WELL, State(xids=(31,)), *[WELL] * 5]).install(monkeypatch)
    found = GpuSampler(DEVICE, closed)
    assert fake.played.wait(PATIENCE_S)
    found.stop()
    assert found.report()["temperature_c"]["readings"] >= 7
    assert len(found.report()["faults"]) == 1


def test_what_another_process_says_is_not_said() -> None:
    errors = {"nvmlDeviceGetPowerUsage": "NoPermission", "nvmlDeviceGetTotalEccErrors": "NotSupported"}
    fake = FakeNvml([State(errors=errors), State(xids=(31,))])
    found, lines = ended(fake, says_general=False)
    assert ["Xid 31" in line for line in lines] == [True]
    permission, xid = found.report()["faults"]  # not that there are no ECC errors
    assert "permission denied for power" in permission and [xid] == lines


class Hanging:
    """A driver that does not answer."""

    facts: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.asked, self.answers = threading.Event(), threading.Event()

    def take_xids(self) -> list[int]:
        return []

    def read(self, thoroughly: bool) -> Any:
        self.asked.set()
        self.answers.wait(PATIENCE_S)
        raise RuntimeError


def test_a_driver_that_does_not_answer_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "_END_S", 0.01)
    gpu: Any = Hanging()
    monkeypatch.setattr(sampler, "open_gpu", lambda device: nullcontext(gpu))
    found = GpuSampler(DEVICE, print)
    assert gpu.asked.wait(PATIENCE_S)
    assert found.take().seconds == 0
    found.report()
    found.stop()
    assert found._thread.is_alive()  # a daemon: the process ends without it
    gpu.answers.set()
    found._thread.join(PATIENCE_S)
    assert not found._thread.is_alive()


def test_scalars_of_ranks_follow_the_slowest() -> None:
    ranks = [
        {"utilisation": 0.8, "temperature_c": 60, "sm_clock_mhz": 1980, "throttled_fraction": 0.0},
        {"utilisation": 0.6, "temperature_c": 85, "sm_clock_mhz": 1500, "throttled_fraction": 0.5},
        {},
    ]
    assert scalars_of_ranks(ranks) == pytest.approx({
        "gpu/utilisation": 0.7, "gpu/temperature_c": 85, "gpu/sm_clock_mhz": 1500,
        "gpu/throttled_fraction": 0.5, "gpu/0/utilisation": 0.8, "gpu/0/temperature_c": 60,
        "gpu/0/sm_clock_mhz": 1980, "gpu/0/throttled_fraction": 0.0, "gpu/1/utilisation": 0.6,
        "gpu/1/temperature_c": 85, "gpu/1/sm_clock_mhz": 1500, "gpu/1/throttled_fraction": 0.5,
    })  # fmt: skip
    assert scalars_of_ranks([{"power_w": 300.0}]) == {"gpu/power_w": 300}
    assert scalars_of_ranks([{"power_w": 300.0}] * 9) == {"gpu/power_w": 300}
    assert scalars_of_ranks([{}, {}]) == {}


def test_the_table_has_a_row_a_gpu() -> None:
    found, _ = ended(FakeNvml([*[WELL] * 10, *[State(sm_clock=990, reasons=HEAT, temperature=80)] * 10]))
    report = {"rank": 0, "host": "node"} | found.report()
    lines = table([report])
    assert lines[0].startswith("GPU health")
    assert len(lines) == 3
    assert lines[2].startswith("GPU 3 NVIDIA Test ")
    assert "95 (95)" in lines[2] and "40.0 (40.0)" in lines[2] and "(990)" in lines[2] and "(80)" in lines[2]
    assert "~ " in lines[2]
    two = table([report, report | {"rank": 1, "host": "other", "lost_is_upper_bound": True}])
    assert two[3].startswith("rank 1 on other, GPU 3")
    assert "<= " in two[3]
    untold = {name: value for name, value in report.items() if name != "power_w"}
    assert len(table([untold, {"rank": 1, "host": "node"}])) == 3
    assert " - " in table([untold])[2]
    assert table([{"rank": 0, "host": "node"}]) == []
