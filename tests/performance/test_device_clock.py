from __future__ import annotations

import pytest

from yolo_lightning.performance.device_clock import DeviceClock, DeviceTimes


class Device:
    """Passes the events that were recorded, in their order, when told."""

    def __init__(self) -> None:
        self.recorded: list[Event] = []
        self.made: list[Event] = []

    def make_event(self) -> Event:
        event = Event(self)
        self.made.append(event)
        return event

    def pass_events(self, *times_ms: float) -> None:
        """Pass as many events as there are times."""
        for time_ms in times_ms:
            self.recorded.pop(0).passed_ms = time_ms


class Event:
    """As strict as CUDA's: no time before it is passed, and none from a later one to an earlier."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.passed_ms: float | None = None

    def record(self) -> None:
        assert self not in self.device.recorded, "an event that is still on its way was used again"
        self.passed_ms = None
        self.device.recorded.append(self)

    def query(self) -> bool:
        return self.passed_ms is not None

    def elapsed_time(self, end_event: Event) -> float:
        assert self.passed_ms is not None and end_event.passed_ms is not None, "this would fail on CUDA"
        assert self.passed_ms <= end_event.passed_ms, "read against the order"
        return end_event.passed_ms - self.passed_ms


@pytest.fixture
def device() -> Device:
    return Device()


def step(clock: DeviceClock) -> None:
    clock.step_started()
    clock.step_ended()


def test_nothing_is_known_before_anything_is_passed(device: Device) -> None:
    clock = DeviceClock(device.make_event)
    assert clock.take() == DeviceTimes(0, 0)
    assert clock.take().idle_fraction is None
    clock.step_ended()
    step(clock)
    assert clock.take().idle_fraction is None


def test_time_between_steps_is_idle_and_time_in_steps_is_busy(device: Device) -> None:
    clock = DeviceClock(device.make_event)
    clock.step_ended()
    for _ in range(2):
        step(clock)
    device.pass_events(10, 12, 20, 25, 40)
    times = clock.take()
    assert (times.idle_ms, times.busy_ms) == (2 + 5, 8 + 15)
    assert times.idle_fraction == pytest.approx(7 / 30)
    assert clock.take() == DeviceTimes()


def test_events_that_are_passed_late_count_when_they_are(device: Device) -> None:
    clock = DeviceClock(device.make_event)
    clock.step_ended()
    step(clock)
    device.pass_events(0, 1)  # the end of the step is not passed yet
    assert clock.take() == DeviceTimes(idle_ms=1)
    step(clock)
    assert clock.take() == DeviceTimes()
    device.pass_events(4, 6, 7)
    assert clock.take() == DeviceTimes(idle_ms=2, busy_ms=3 + 1)


def test_an_interruption_is_not_counted(device: Device) -> None:
    clock = DeviceClock(device.make_event)
    clock.step_ended()
    step(clock)
    clock.interrupt()
    step(clock)
    device.pass_events(0, 1, 3, 1000, 1005)
    assert clock.take() == DeviceTimes(idle_ms=1, busy_ms=2 + 5)


def test_an_epoch_idles_from_its_start_to_its_first_step(device: Device) -> None:
    clock = DeviceClock(device.make_event)
    clock.step_ended()
    clock.epoch_started()
    step(clock)
    device.pass_events(0, 1000, 1003, 1005)
    assert clock.take() == DeviceTimes(idle_ms=3, busy_ms=2)


def test_events_are_used_again(device: Device) -> None:
    clock = DeviceClock(device.make_event, capacity=8)
    now = 0.0
    clock.step_ended()
    for _ in range(100):
        step(clock)
        marks = len(device.recorded)
        device.pass_events(*(now + i for i in range(marks)))
        now += marks
    assert len(device.made) < 8
    times = clock.take()
    assert (times.idle_ms, times.busy_ms) == (100, 100)


def test_a_host_far_ahead_leaves_marks_out_and_counts_none_twice(device: Device) -> None:
    clock = DeviceClock(device.make_event, capacity=4)
    clock.step_ended()
    for _ in range(10):  # 1.5 of these steps find events
        step(clock)
    assert len(device.made) == len(device.recorded) == 4
    device.pass_events(0, 1, 3, 6)
    step(clock)  # what came since the last mark is unknown; this step is counted again
    device.pass_events(100, 105)
    assert clock.take() == DeviceTimes(idle_ms=1 + 3, busy_ms=2 + 5)
    assert len(device.made) == 4


def test_a_run_may_end_with_events_unread(device: Device) -> None:
    clock = DeviceClock(device.make_event)
    clock.step_ended()
    for _ in range(3):
        step(clock)
    device.pass_events(0, 1, 3)
    assert clock.take() == DeviceTimes(idle_ms=1, busy_ms=2)
    assert len(device.recorded) == 4  # nobody has waited for them
    device.pass_events(4, 6, 7, 9)
    assert clock.take() == DeviceTimes(idle_ms=1 + 1, busy_ms=2 + 2)
