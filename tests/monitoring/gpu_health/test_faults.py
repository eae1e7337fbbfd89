from __future__ import annotations

import pytest

from tests.support.fake_nvml import BRAKE, DEVICE, HEAT, HW, IDLE, POWER, FakeNvml, State
from yolo_lightning.monitoring.gpu_health.faults import FaultWatch
from yolo_lightning.monitoring.gpu_health.nvml import GpuReading, open_gpu
from yolo_lightning.monitoring.gpu_health.summary import Aggregate, Interval, ThrottleMeter

WELL = State()
SLOW = State(sm_clock=990, reasons=HEAT)  # half of what WELL has


def played(*states: State) -> tuple[list[str], Aggregate]:
    """Lines and figures of a recording with a look each second."""
    with pytest.MonkeyPatch.context() as patch:
        fake = FakeNvml(states).install(patch)
        with open_gpu(DEVICE) as gpu:
            watch, meter = FaultWatch(gpu.facts), ThrottleMeter(gpu.facts.get("max_sm_clock_mhz"))
            lines, sums = [], Aggregate()
            for second in range(len(states)):
                now_s = fake.clock()
                lines += watch.see_xids(gpu.take_xids())
                interval = meter.see(gpu.read(), float(second > 0))
                sums.add(interval)
                lines += [*watch.see_left_out(gpu.left_out).values(), *watch.see(now_s, interval)]
        return lines, sums


def test_a_gpu_that_is_well_is_not_spoken_of() -> None:
    lines, sums = played(*[WELL] * 100)
    assert lines == []
    assert (sums.seconds, sums.throttled_seconds, sums.lost_seconds) == (99, 0, 0)


def test_throttling_is_one_line_with_figures_reason_and_loss() -> None:
    lines, sums = played(*[WELL] * 5, *[SLOW] * 60)
    assert lines == [
        "GPU 3 (NVIDIA Test): clocks are lowered by heat: 990 MHz instead of 1980 MHz in 10 of the last 10 s"
        ", which cost about 5.0 s; cool it better, or lower its power limit with 'nvidia-smi -pl'"
    ]
    assert (sums.throttled_seconds, sums.throttled_seconds_by_reason) == (60, {"SwThermalSlowdown": 60})
    assert sums.lost_seconds == pytest.approx(30)
    assert not sums.lost_is_upper_bound
    assert sums.scalars()["throttled_fraction"] == pytest.approx(60 / 64)
    assert sums.scalars()["throttle_lost_s"] == pytest.approx(30)


def test_what_comes_and_goes_each_second_is_one_line() -> None:
    lines, _ = played(WELL, *[SLOW, WELL] * 100)
    assert [line.split(": ")[2] for line in lines] == [
        "990 MHz instead of 1980 MHz in 10 of the last 19 s, which cost about 5.0 s; cool it better, or "
        "lower its power limit with 'nvidia-smi -pl'"
    ]


def test_a_fault_that_comes_back_is_not_told_again() -> None:
    assert len(played(WELL, *[*[SLOW] * 20, *[WELL] * 40] * 3)[0]) == 1


def test_moments_far_apart_do_not_add_up() -> None:
    assert played(WELL, *[*[SLOW] * 9, *[WELL] * 40] * 3)[0] == []


def test_a_moment_and_a_trifle_are_not_told() -> None:
    assert played(WELL, *[SLOW] * 9, *[WELL] * 50)[0] == []
    trifle = State(sm_clock=1900, reasons=POWER)
    lines, sums = played(WELL, *[trifle] * 100)
    assert lines == []
    assert sums.throttled_seconds == 100


def test_a_gpu_that_was_slow_from_the_start_loses_at_most() -> None:
    [line], sums = played(*[State(sm_clock=1500, reasons=POWER)] * 21)
    assert "by its power limit of 700 W: 1500 MHz instead of 2000 MHz in 10 of the last 10 s" in line
    assert "which cost at most 2.5 s" in line
    assert sums.lost_is_upper_bound
    assert sums.lost_seconds == pytest.approx(20 * (1 - 1500 / 2000))


def test_heat_is_told_besides_a_power_limit() -> None:
    power = State(sm_clock=1700, reasons=POWER)
    lines, _ = played(WELL, *[power] * 20, *[SLOW] * 20)
    assert [line.split(": ")[1] for line in lines] == [
        "clocks are lowered by its power limit of 700 W", "clocks are lowered by heat"
    ]  # fmt: skip


def test_the_hardware_names_its_reason() -> None:
    [line], _ = played(WELL, *[State(sm_clock=990, reasons=HW | BRAKE)] * 20)
    assert "by the server's power brake" in line


def test_an_idle_gpu_is_neither_throttled_nor_a_reference() -> None:
    idle = State(utilisation=0, sm_clock=345, reasons=IDLE | POWER)
    lines, sums = played(WELL, *[idle] * 50)
    assert lines == []
    assert sums.throttled_seconds == 0
    meter = ThrottleMeter(2000)
    meter.see(GpuReading({"sm_clock_mhz": 1995, "utilisation": 0.1}, {}), 1)  # a clock without load
    meter.see(GpuReading({"sm_clock_mhz": 1990}, {}, is_idle=True), 1)  # as MIG, without utilisation
    meter.see(GpuReading({"sm_clock_mhz": 1800, "utilisation": 0.9}, {}), 1)
    found = meter.see(GpuReading({"sm_clock_mhz": 900}, {}, frozenset({"HwSlowdown"})), 2)
    assert (found.reference_mhz, found.lost_s, found.is_bound) == (1800, 1, False)


def test_without_clocks_throttling_is_told_without_figures() -> None:
    errors = {"nvmlDeviceGetClockInfo": "NotSupported", "nvmlDeviceGetMaxClockInfo": "NotSupported"}
    lines, sums = played(*[State(reasons=HEAT, errors=errors)] * 20)
    assert len(lines) == 2  # what cannot be read, and what is wrong
    assert lines[0].endswith(": cannot read SM clock, memory clock: not watched")
    assert "lowered by heat: in 10 of the last 10 s; cool it" in lines[1]
    assert (sums.throttled_seconds, sums.lost_seconds) == (19, 0)


def test_a_temperature_near_its_limit_is_one_line() -> None:
    hot = State(temperature=84)
    lines, _ = played(WELL, *[State(temperature=81)] * 20, *[hot] * 50, State(temperature=88), *[WELL] * 50)
    [line] = lines
    assert line.startswith(
        "GPU 3 (NVIDIA Test): 84 °C hot, 3 degrees below the 87 °C at which its clocks are lowered; cool it"
    )
    [line], _ = played(State(temperature=88))
    assert "88 °C hot, not below the 87 °C" in line


def test_a_margin_is_as_good_as_a_limit() -> None:
    errors = {"nvmlDeviceGetTemperatureThreshold": "NotSupported"}
    [line], _ = played(State(errors=errors), *[State(temperature=86, errors=errors)] * 20)
    assert "86 °C hot, 4 degrees below the 90 °C" in line


def test_uncorrected_memory_errors_are_told_those_of_the_run_and_those_before() -> None:
    assert played(*[State(ecc=(500, 0))] * 50)[0] == []
    before = [State(ecc=(0, 2))] * 10
    lines, _ = played(*before, *[State(ecc=(0, 3))] * 10, *[State(ecc=(0, 6))] * 100)
    assert [line.split(": ", 1)[1].split(";")[0] for line in lines] == [
        "uncorrected ECC errors from before this run: 2",
        "uncorrected ECC errors in this run: 1",
    ]


def test_bad_memory_is_told() -> None:
    lines, _ = played(*[State(rows=(0, 1, 1, 0))] * 50, *[State(rows=(0, 1, 1, 1))] * 50)
    assert len(lines) == 2
    assert "has bad memory that is replaced when" in lines[0]
    assert "could not replace" in lines[1]


def test_each_xid_is_one_line() -> None:
    lines, _ = played(
        WELL, State(xids=(31, 31)), State(xids=(31,)), State(xids=(137,)), *[WELL] * 40, State(xids=(31,))
    )
    assert lines == [
        "GPU 3 (NVIDIA Test): the driver reports Xid 31 (page fault in its memory); see 'dmesg | grep Xid'",
        "GPU 3 (NVIDIA Test): the driver reports Xid 137 (see NVIDIA's list of Xid errors); "
        "see 'dmesg | grep Xid'",
    ]


def test_what_cannot_be_read_is_one_line_for_each_cause() -> None:
    errors = {
        "nvmlDeviceGetTotalEccErrors": "NotSupported",
        "nvmlDeviceGetRemappedRows": "NotSupported",
        "nvmlDeviceGetPcieThroughput": "NoPermission",
        "nvmlDeviceRegisterEvents": "NoPermission",
    }
    lines, sums = played(*[State(errors=errors)] * 20)
    assert lines == [
        "GPU 3 (NVIDIA Test): permission denied for Xid errors, PCIe throughput: not watched",
        "GPU 3 (NVIDIA Test): cannot read ECC errors, remapped rows: not watched",
    ]
    assert "pcie_rx_mb_s" not in sums.scalars()
    assert sums.scalars()["temperature_c"] == 60


def test_a_lost_gpu_is_told() -> None:
    [line] = FaultWatch({"index": 1, "name": "X"}, ", rank 1 on node").lost(Exception("GPU is lost"))
    assert line.startswith("GPU 1 (X), rank 1 on node: lost (NVML: GPU is lost)")
    assert "training continues" in line


def test_aggregates_keep_least_mean_and_largest() -> None:
    sums = Aggregate()
    for power in (100.0, 200.0, 600.0):
        sums.add(Interval(2.0, GpuReading({"power_w": power, "temperature_c": power / 10}, {})))
    assert sums.values["power_w"] == {"mean": 300, "min": 100, "max": 600, "readings": 3}
    not_throttled = {"throttled_fraction": 0, "throttle_lost_s": 0}
    assert sums.scalars() == {"power_w": 300, "temperature_c": 60} | not_throttled
    assert "sm_clock_mhz" not in sums.as_dict()


def test_the_summary_has_reasons_in_order_and_rounded_times() -> None:
    sums = Aggregate()
    for reason in ("SwThermalSlowdown", "HwSlowdown", "SwPowerCap"):
        sums.add(Interval(1.00004, GpuReading({}, {}, frozenset({reason}))))
    summary = sums.as_dict()
    assert (summary["seconds"], summary["throttled_seconds"]) == (3.0, 3.0)
    assert [*summary["throttled_seconds_by_reason"].items()] == [
        ("HwSlowdown", 1.0), ("SwPowerCap", 1.0), ("SwThermalSlowdown", 1.0)
    ]  # fmt: skip
