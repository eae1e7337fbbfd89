from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.stall_run import Clock, Run
from yolo_lightning.performance import busy_cores, stalls
from yolo_lightning.performance.busy_cores import BusyCores, CoreWatch
from yolo_lightning.system.core_time import CoreUse, Process


class Machine:
    """Two cores, of which other programs take a part, by a clock that moves only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.waited_s: float | None = 3.0
        self.ran_s, self.others_s = 10.0, 100.0
        monkeypatch.setattr(busy_cores, "perf_counter", self.clock)

    def watch(self) -> CoreWatch:
        return CoreWatch(lambda: self.waited_s, self.use)

    def use(self) -> CoreUse:
        processes = {os.getpid(): Process("python", 1, self.ran_s), 1: Process("ffmpeg", 0, self.others_s)}
        return CoreUse(2, self.ran_s + self.others_s, processes)

    def run(self, seconds: float, ran: float, waited: float, others: float) -> None:
        """Let time pass; the other arguments are parts of it."""
        self.count(seconds, ran, waited, others)
        self.clock.now += seconds

    def count(self, seconds: float, ran: float, waited: float, others: float) -> None:
        """What Linux records of that time."""
        assert self.waited_s is not None
        self.waited_s += waited * seconds
        self.ran_s += ran * seconds
        self.others_s += others * seconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def watch(machine: Machine) -> Iterator[CoreWatch]:
    watch = machine.watch()
    yield watch
    watch.sleeping.stop()


def test_threads_sleep_while_they_wait_for_cores_and_no_longer(machine: Machine, watch: CoreWatch) -> None:
    found = []
    for waited in (0.0, 0.29, 0.31, 0.21, 0.7, 0.19, 0.21):
        machine.run(2, ran=1, waited=waited, others=1)
        watch.look()
        found.append(watch.sleeping.active)
    assert found == [False, False, True, True, True, False, False]


def test_a_decision_takes_two_seconds_of_readings(machine: Machine, watch: CoreWatch) -> None:
    machine.run(1.9, ran=1, waited=1, others=1)
    watch.look()
    assert not watch.sleeping.active
    machine.run(0.1, ran=1, waited=1, others=1)
    watch.look()
    assert watch.sleeping.active


def test_a_reading_adds_up_its_windows(machine: Machine, watch: CoreWatch) -> None:
    for _ in range(3):
        machine.run(3, ran=1.0, waited=0.5, others=0.8)
        watch.look()
    machine.run(1, ran=1.0, waited=0.5, others=0.8)
    found = watch.take()
    assert found is not None
    assert found == BusyCores(10, pytest.approx(5), 2, pytest.approx(0.4), "ffmpeg (process 1)")
    watch.begin()
    machine.run(4, ran=1.0, waited=0.0, others=0.2)
    found = watch.take()
    assert found is not None
    assert (found.seconds, found.waited_s, found.taken) == (4, 0, pytest.approx(0.1))


def test_a_system_without_records_is_left_alone(machine: Machine) -> None:
    machine.waited_s = None
    watch = machine.watch()
    machine.clock.now += 10
    watch.look()
    assert not watch.sleeping.active
    assert watch.take() is None


def test_the_line_of_an_epoch_names_what_takes_the_cores(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(monkeypatch)
    run.clock = machine.clock
    monkeypatch.setattr(stalls, "perf_counter", machine.clock)
    monkeypatch.setattr(stalls, "CoreWatch", machine.watch)
    run.monitor = stalls.StallMonitor()
    run.monitor.on_train_start(run.trainer, run.module)
    run.epoch()
    for _ in range(3):
        machine.count(10, ran=1.0, waited=0.5, others=0.96)
        run.batch(wait_s=0, step_s=10, images=4)
    run.end()
    assert run.monitor._cores.sleeping.active
    run.monitor.on_train_end(run.trainer, run.module)
    assert not run.monitor._cores.sleeping.active
    assert run.module.printed == [
        "other programs take 48 % of the 2 cores, most of it ffmpeg (process 1): in 30.0 s the threads "
        "of this training together waited 15.0 s for a core; free the cores, or set OMP_NUM_THREADS=1 "
        "in the environment"
    ]
