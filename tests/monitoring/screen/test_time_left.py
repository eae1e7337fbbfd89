from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import Timer

from yolo_lightning.monitoring.screen.time_left import Estimate, TimeLeft, left_text, time_left


class Run:
    """A run on a clock of its own: batches of 2 s, validations of 30 s, checkpoints of 5 s."""

    def __init__(self, epochs: int, every: int = 1, batches: int = 10, first_s: float = 2.0) -> None:
        self.left = TimeLeft(epochs, batches, every)
        self.batches, self.every, self.first_s = batches, every, first_s
        self.now, self.batch_s = 1000.0, 2.0

    def epoch(self, epoch: int, skipped: int = 0, until: int | None = None) -> None:
        """An epoch, or its batches up to ``until``."""
        self.left.begin_epoch(self.now, epoch)
        for _ in range(skipped, self.batches if until is None else until):
            self.now += self.first_s
            self.first_s = self.batch_s
            self.left.end_batch(self.now)
        if until is None:
            if self.every and (epoch + 1) % self.every == 0:
                self.validate()
            self.now += 5.0
            self.left.end_epoch(self.now)

    def validate(self) -> None:
        self.left.begin_validation(self.now)
        self.now += 30.0
        self.left.end_validation(self.now)

    def within(self, batches: int) -> Estimate | None:
        return self.left.within_epoch(batches)


WHOLE = 10 * 2.0 + 30.0 + 5.0


def test_after_an_epoch_validations_and_checkpoints_are_in_it() -> None:
    run = Run(epochs=30)
    run.epoch(0)
    assert run.left.after_epoch() == Estimate(pytest.approx(29 * WHOLE), False)  # type: ignore[arg-type]


def test_what_the_first_batch_compiles_is_not_expected_again() -> None:
    run = Run(epochs=30, first_s=300.0)
    run.epoch(0)
    assert run.left.after_epoch() == Estimate(pytest.approx(29 * WHOLE), False)  # type: ignore[arg-type]


def test_the_first_epoch_tells_the_least_that_it_can_take() -> None:
    run = Run(epochs=3, first_s=300.0)
    run.epoch(0, until=1)
    assert run.within(1) is None  # it compiled: nothing is known
    run = Run(epochs=3, first_s=300.0)
    run.epoch(0, until=4)
    assert run.within(4) == Estimate(pytest.approx(6 * 2.0 + 2 * 20.0), True)  # type: ignore[arg-type]


def test_within_an_epoch_it_counts_down_over_batches_and_validation() -> None:
    run = Run(epochs=3)
    run.epoch(0)
    run.epoch(1, until=4)
    assert run.within(4) == Estimate(pytest.approx(2 * WHOLE - 8.0), False)  # type: ignore[arg-type]
    run.epoch(2, until=10)
    run.left.begin_validation(run.now)
    run.now += 30.0
    run.left.end_validation(run.now)
    assert run.within(10) == Estimate(pytest.approx(5.0), False)  # type: ignore[arg-type]


def test_slow_batches_count_at_once() -> None:
    run = Run(epochs=2)
    run.epoch(0)  # 9 batches of 2 s, without the first
    run.first_s = run.batch_s = 20.0
    run.epoch(1, until=5)
    mean_s = (9 * 2.0 + 5 * 20.0) / 14
    assert run.within(5) == Estimate(pytest.approx(5 * mean_s + 30.0 + 5.0), False)  # type: ignore[arg-type]


def test_epochs_without_validation_take_less() -> None:
    run = Run(epochs=10, every=4)
    run.epoch(0)
    # Of epochs 2 to 10 the 4th and the 8th are validated, which nobody has timed yet.
    assert run.left.after_epoch() == Estimate(pytest.approx(9 * 25.0), True)  # type: ignore[arg-type]
    for epoch in (1, 2, 3):
        run.epoch(epoch)
    assert run.left.after_epoch() == Estimate(pytest.approx(6 * 25.0 + 30.0), False)  # type: ignore[arg-type]
    for epoch in range(4, 8):
        run.epoch(epoch)
    assert run.left.after_epoch() == Estimate(pytest.approx(2 * 25.0), False)  # type: ignore[arg-type]


def test_a_run_that_resumes_within_an_epoch_counts_the_batches_that_it_did_not_see() -> None:
    run = Run(epochs=5)
    run.epoch(2, skipped=6)
    assert run.left.after_epoch() == Estimate(pytest.approx(2 * WHOLE), False)  # type: ignore[arg-type]


def test_the_last_epochs_count() -> None:
    run = Run(epochs=100)
    run.epoch(0)
    run.first_s = run.batch_s = 4.0  # everything takes longer now
    for epoch in range(1, 7):
        run.epoch(epoch)
    assert run.left.after_epoch() == Estimate(pytest.approx(93 * (WHOLE + 20.0)), False)  # type: ignore[arg-type]


def test_after_the_last_epoch_nothing_is_left() -> None:
    run = Run(epochs=1)
    run.epoch(0)
    assert run.left.after_epoch() == Estimate(0.0, False)


def trainer(**settings: Any) -> Any:
    defaults = {"max_epochs": 5, "max_steps": -1, "enable_validation": True, "check_val_every_n_epoch": 2,
                "num_training_batches": 10}  # fmt: skip
    return SimpleNamespace(**{**defaults, "callbacks": [], **settings})


@pytest.mark.parametrize(
    "settings", [{"max_epochs": -1}, {"max_steps": 100}, {"num_training_batches": math.inf}]
)
def test_only_a_number_of_epochs_can_be_foretold(settings: dict[str, float]) -> None:
    left = time_left(trainer(**settings))
    left.begin_epoch(0.0, 0)
    left.end_batch(1.0)
    left.end_batch(2.0)
    assert left.within_epoch(2) is None


def test_the_estimator_knows_the_plan() -> None:
    found = time_left(trainer())
    assert (found.epochs, found.batches, found.validates_every) == (5, 10, 2)
    assert time_left(trainer(enable_validation=False)).validates_every == 0


def test_words() -> None:
    assert left_text(trainer(), None) == ""
    assert left_text(trainer(), Estimate(754.0, False)) == "12:34"
    assert left_text(trainer(), Estimate(754.0, True)) == "≥12:34"


def test_a_limit_on_time_is_kept() -> None:
    timer = Timer(duration={"minutes": 5})
    assert left_text(trainer(callbacks=[timer]), Estimate(754.0, True)) == "5:00"
    assert left_text(trainer(callbacks=[timer]), Estimate(200.0, False)) == "3:20"
