"""Time left for a run, estimated from its finished epochs."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from ...system.text import clock

_EPOCHS = 5
"""Recent epochs that count: the pace changes, as when mosaic is switched off."""


@dataclass(frozen=True)
class Estimate:
    """Estimate of the time left, in s."""

    seconds: float
    is_least: bool
    """Some part is missing, because it was not measured yet."""


class TimeLeft:
    """Measures whole epochs: batches, validations, checkpoints and all else.

    The extra time of a run's first batch, as for compiling, is not expected again. Before the first
    epoch has ended, and before the first validation, the estimate has only the parts that were measured.
    All times are in s, by one clock.

    Args:
        epochs: number of epochs after which the run ends.
        validates_every: epochs from one validation to the next; 0 for none.
    """

    def __init__(self, epochs: int, validates_every: int) -> None:
        self.epochs = epochs
        self.validates_every = validates_every
        self._training: deque[float] = deque(maxlen=_EPOCHS)
        """Time of each epoch without its validations."""
        self._validating: deque[float] = deque(maxlen=_EPOCHS)
        self._is_first_batch = True
        self._batch_s = self._validation_began = 0.0
        self._begin(0.0, 0, 0)

    def _begin(self, now: float, epoch: int, skipped: int) -> None:
        self._epoch, self._skipped = epoch, skipped
        self._began = self._mark = now
        self._batches, self._batches_s = 0, 0.0
        self._validated_s, self._has_validated, self._excess_s = 0.0, False, 0.0

    def begin_epoch(self, now: float, epoch: int, skipped: int = 0) -> None:
        """Begin an epoch; ``skipped`` of its batches were trained before the run was resumed."""
        self._begin(now, epoch, skipped)

    def end_batch(self, now: float) -> None:
        """End a batch."""
        if self._is_first_batch:
            self._is_first_batch = False
            self._excess_s = now - self._began
        else:
            self._batches += 1
            self._batches_s += now - self._mark
            self._batch_s = self._batches_s / self._batches
        self._mark = now

    def begin_validation(self, now: float) -> None:
        """Begin a validation."""
        self._validation_began = now

    def end_validation(self, now: float) -> None:
        """End a validation."""
        self._validated_s += now - self._validation_began
        self._has_validated = True
        self._mark += now - self._validation_began

    def end_epoch(self, now: float) -> None:
        """End the epoch."""
        if self._batches == 0:  # only the batch that compiles
            return
        missed_s = self._skipped * self._batch_s
        self._training.append(self._elapsed(now) - self._validated_s + missed_s)
        if self._has_validated:
            self._validating.append(self._validated_s)

    def after_epoch(self) -> Estimate | None:
        """Time from the end of this epoch to the end of the run."""
        return self._later(None)

    def within_epoch(self, now: float, batches: int, total: float) -> Estimate | None:
        """Time from the middle of an epoch, after ``batches`` of its ``total``, to the end of the run.

        Returns:
            None until two batches were measured.
        """
        if not self._batch_s:
            return None
        coming_s = (total - batches) * self._batch_s if math.isfinite(total) else 0.0
        later = self._later(total * self._batch_s if math.isfinite(total) else None)
        if later is None:
            return None
        expected_s, validates = _mean(self._training), self._validates(self._epoch)
        if expected_s is None:  # of the first epoch only the batches are known
            return Estimate(coming_s + later.seconds, True)
        own_s = expected_s - (self._elapsed(now) - self._validated_s)
        if validates:
            own_s = max(own_s, coming_s) + max((_mean(self._validating) or 0.0) - self._validated_s, 0.0)
        is_least = later.is_least or (validates and not self._validating and not self._has_validated)
        return Estimate(max(own_s, coming_s) + later.seconds, is_least)

    def _later(self, batches_s: float | None) -> Estimate | None:
        """Time of all later epochs; ``batches_s`` replaces the time of an epoch until one has ended."""
        first, last = self._epoch + 1, self.epochs
        count = max(last - first, 0)
        every = self.validates_every
        validations = last // every - first // every if every and count else 0
        training_s = _mean(self._training)
        is_least = training_s is None or (validations > 0 and not self._validating)
        training_s = batches_s if training_s is None else training_s
        if training_s is None:
            return None if count else Estimate(0.0, False)
        seconds = count * training_s + validations * (_mean(self._validating) or 0.0)
        return Estimate(seconds, is_least and count > 0)

    def _elapsed(self, now: float) -> float:
        """Time of this epoch, without the extra time of a run's first batch."""
        excess_s = max(self._excess_s - self._batch_s, 0.0) if self._excess_s else 0.0
        return now - self._began - excess_s

    def _validates(self, epoch: int) -> bool:
        return self.validates_every > 0 and (epoch + 1) % self.validates_every == 0


def time_left(trainer: Trainer) -> TimeLeft | None:
    """Make the estimator of a run; None if something else than the number of epochs ends it."""
    if (trainer.max_epochs or 0) < 1 or trainer.max_steps >= 0:
        return None
    every = trainer.check_val_every_n_epoch if trainer.enable_validation else 0
    return TimeLeft(trainer.max_epochs or 0, every or 0)


def left_text(trainer: Trainer, left: Estimate | None) -> str:
    """Format an estimate: ``12:34``, or ``≥12:34`` if a part is missing; at most ``trainer.max_time``."""
    if left is None:
        return ""
    for timer in (callback for callback in trainer.callbacks if isinstance(callback, Timer)):  # type: ignore[attr-defined]
        remaining_s = timer.time_remaining()
        if remaining_s is not None and remaining_s < left.seconds:
            return clock(remaining_s)
    return f"{'≥' if left.is_least else ''}{clock(left.seconds)}"


def _mean(values: deque[float]) -> float | None:
    return sum(values) / len(values) if values else None
