"""Time left for a run, estimated from its latest batches, validations and checkpoints."""

from __future__ import annotations

import math
from collections import deque
from statistics import fmean
from typing import NamedTuple

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from ...runs.deadline import Deadline
from ...system.text import clock

_EPOCHS = 5
"""Recent epochs that count: the pace changes, as when mosaic is switched off."""
_BATCHES = 1000
"""Most batches that count."""


class Estimate(NamedTuple):
    """Estimate of the time left, in s."""

    seconds: float
    is_least: bool
    """Some part is missing, because it was not measured yet."""


class TimeLeft:
    """Measures batches, validations, and what else an epoch takes at its end, such as checkpoints.

    The first batch of a run, which may compile, does not count. All times are in s, by one clock.

    Args:
        epochs: number of epochs after which the run ends; 0 if something else ends it: no estimate.
        batches: number of batches of an epoch.
        validates_every: epochs from one validation to the next; 0 for none.
    """

    def __init__(self, epochs: int, batches: int, validates_every: int) -> None:
        self.epochs = epochs
        self.batches = batches
        self.validates_every = validates_every
        self._batches_s: deque[float] = deque(maxlen=min(_EPOCHS * batches, _BATCHES))
        self._validations_s: deque[float] = deque(maxlen=_EPOCHS)
        """Time of all validations of an epoch."""
        self._ends_s: deque[float] = deque(maxlen=_EPOCHS)
        self._is_first_batch = True
        self._validation_began = 0.0
        self.begin_epoch(0.0, 0)

    def begin_epoch(self, now: float, epoch: int) -> None:
        self._epoch = epoch
        self._mark = now
        """End of the latest batch, later by the time of validations since then."""
        self._validated: list[float] = []
        """Time of each validation of this epoch."""

    def end_batch(self, now: float) -> None:
        if not self._is_first_batch:
            self._batches_s.append(now - self._mark)
        self._is_first_batch = False
        self._mark = now

    def begin_validation(self, now: float) -> None:
        self._validation_began = now

    def end_validation(self, now: float) -> None:
        """End a validation; one that nobody can foresee counts as part of a batch."""
        if self.validates_every:
            self._validated.append(now - self._validation_began)
            self._mark += now - self._validation_began

    def end_epoch(self, now: float) -> None:
        self._ends_s.append(now - self._mark)
        if self._validated:
            self._validations_s.append(sum(self._validated))

    def after_epoch(self) -> Estimate | None:
        """Time from the end of this epoch to the end of the run; None until two batches were measured."""
        return self._estimate(self._epoch + 1, 0, [])

    def within_epoch(self, batches: int) -> Estimate | None:
        """Time from the middle of an epoch, after some of its batches, to the end of the run."""
        return self._estimate(self._epoch, batches, self._validated)

    def _estimate(self, epoch: int, batches_done: int, done: list[float]) -> Estimate | None:
        """Time from ``epoch`` on, without its batches and the time of its validations that are over."""
        every = self.validates_every
        ends = self.epochs - epoch
        batches = ends * self.batches - batches_done
        validations = self.epochs // every - epoch // every if every else 0
        if not self.epochs or (batches and not self._batches_s):
            return None
        batch_s = fmean(self._batches_s) if batches else 0.0
        validation_s = fmean(self._validations_s or [sum(done)])
        end_s = fmean(self._ends_s or [0.0])
        seconds = batches * batch_s + validations * validation_s + ends * end_s - min(sum(done), validation_s)
        is_least = (validations > 0 and not (self._validations_s or done)) or (ends > 0 and not self._ends_s)
        return Estimate(seconds, is_least)


def time_left(trainer: Trainer) -> TimeLeft:
    """Make the estimator of a run; without estimates if something else than the number of epochs ends it."""
    epochs = trainer.max_epochs or 0
    batches = trainer.num_training_batches
    if epochs < 1 or trainer.max_steps >= 0 or math.isinf(batches):
        return TimeLeft(0, 0, 0)
    every = trainer.check_val_every_n_epoch if trainer.enable_validation else 0
    return TimeLeft(epochs, int(batches), every or 0)


def left_text(trainer: Trainer, left: Estimate | None) -> str:
    """Format an estimate: ``12:34``, or ``≥12:34`` if a part is missing; at most ``trainer.max_time``.

    A deadline needs no estimate.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Deadline):
            return clock(callback.time_remaining())
    if left is None:
        return ""
    for timer in (callback for callback in trainer.callbacks if isinstance(callback, Timer)):  # type: ignore[attr-defined]
        remaining_s = timer.time_remaining()
        if remaining_s is not None and remaining_s < left.seconds:
            return clock(remaining_s)
    return f"{'≥' if left.is_least else ''}{clock(left.seconds)}"
