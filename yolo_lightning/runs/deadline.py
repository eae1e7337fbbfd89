"""A training that ends on time: its schedule follows the clock, not the number of epochs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from ..errors import InputError
from ..system.text import duration
from ..training.contracts import detection_module

_UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_FINISH_S = 2.4
"""Time from the end of training to the end of the program, in s, with the last pictures and the report, as
measured on two cores."""
_STEPS = 100
"""Settings of the learning rate in a whole run, at least."""


def read_duration(text: str) -> float:
    """Seconds of a duration such as ``2h``, ``1h30m`` or ``90s``.

    Raises:
        InputError: it is no duration, or it is 0.
    """
    parts = re.findall(r"([0-9.]+)\s*([dhms])", text)
    seconds = 0.0
    if re.fullmatch(r"(\s*[0-9]+(\.[0-9]+)?\s*[dhms])+\s*", text):
        seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    if seconds <= 0:
        raise InputError(f"deadline is {text!r}; give a time with its unit, such as 2h, 1h30m or 90s")
    return seconds


def batches_until_next_look(remaining_s: float, batch_s: float, deadline_s: float) -> int:
    """Batches to train before the next look at the clock: closer together towards the end."""
    return max(1, int(min(deadline_s / _STEPS, remaining_s / 2) / batch_s))


class Deadline(Callback):
    """Ends training when its time is used, with the learning rate at its end.

    At some batches all ranks take the time of rank 0. They set ``schedule_progress`` of the module, estimate
    the number of epochs, and decide whether this batch is the last one, early enough for the validation that
    follows. A validation that would leave no time for another one is left out, so that the last one judges
    the end of the schedule. The time that a run has used is in its checkpoints. The first deadline of a run
    that had none counts from the start of this program; the schedule goes on where the time before leaves it.

    Args:
        deadline_s: time of the whole run in s, from the start of the program on, for all its parts together
            if it is resumed.
        began_s: start of the program on the clock.
        clock: clock in s.
    """

    def __init__(
        self, deadline_s: float, began_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.deadline_s = deadline_s
        self._began_s = began_s
        self._clock = clock
        self._earlier_s: float | None = None
        """Time used before this process; None until training starts or a checkpoint is loaded."""
        self._before_s = 0.0
        """Time of the run before it had a deadline, which counts for the schedule alone."""
        self._start_s: float | None = None
        """Time until the first batch of the run, which does not count for the schedule."""
        self._reached_s = 0.0
        """Deadline at which training has ended; 0 before."""
        self._batches = 0  # trained by this process
        self._look = 0  # value of _batches at the next look
        self._last = 0, 0.0  # value of _batches at the last look, and its time
        self._batch_s = 0.0  # time of a batch; 0 if unknown
        self._end_s: float | None = None  # time from the last batch of an epoch to the first of the next
        self._validated = False  # since the last batch of an epoch
        self._every: int | None = None  # trainer.check_val_every_n_epoch as given
        self._begun = 0  # epochs begun by earlier processes

    def _used_s(self) -> float:
        return (self._earlier_s or 0.0) + self._clock() - self._began_s

    def time_remaining(self) -> float:
        """Time until the deadline in s."""
        return self.deadline_s - self._used_s()

    def state_dict(self) -> dict[str, Any]:
        return {
            "used_s": self._used_s(),
            "reached_s": self._reached_s,
            "before_s": self._before_s,
            "start_s": self._start_s,
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._begun = checkpoint["epoch"] + 1
        if self.state_key not in checkpoint["callbacks"]:
            self._before_s = checkpoint["callbacks"].get("RunRecorder", {}).get("wall_seconds", 0.0)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._reached_s, self._before_s = state_dict["reached_s"], state_dict.get("before_s", 0.0)
        self._start_s = state_dict.get("start_s", 0.0)
        if self._earlier_s is None:  # a run that goes back in its process has used the time since as well
            self._earlier_s = state_dict["used_s"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train no further if the time is used, unless the deadline has been moved."""
        self._earlier_s = self._earlier_s or 0.0
        if not self._batches:  # a run that goes back finds what _plan has set
            self._every = trainer.check_val_every_n_epoch
        if self.deadline_s <= self._reached_s:
            trainer.should_stop = True
            rank_zero_info(
                f"deadline: training has used its {duration(self._reached_s)}; give a longer --deadline"
            )
        # More than are trained already, or there would be no batch at which to estimate.
        trainer.fit_loop.max_epochs = max(trainer.max_epochs or 0, self._begun + 1)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rank_zero_info(
            f"deadline: {duration(self.deadline_s)}, of which {duration(self._used_s())} are used; "
            "trainer.max_epochs is estimated from now on"
        )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        batches = int(trainer.num_training_batches)
        is_last = batch_idx == batches - 1
        if batch_idx == 0 or is_last or self._batches >= self._look:
            here = self._used_s(), int(sum(trainer.num_val_batches))  # ranks validate unequal numbers
            used_s, validated = trainer.strategy.broadcast(here)
            self._start_s = used_s if self._start_s is None else self._start_s
            self._measure(used_s, is_first=batch_idx == 0)
            end_s = self._batch_s * validated if self._end_s is None else self._end_s
            self._plan(trainer, pl_module, used_s + _FINISH_S, end_s, batches - batch_idx)
        self._batches += 1

    def _measure(self, used_s: float, is_first: bool) -> None:
        """Take the times of batches, and of what is between two epochs."""
        batches, then_s = self._last
        passed_s = used_s - then_s
        if is_first and self._validated:
            self._end_s = max(passed_s - self._batch_s, 0.0)
        elif not is_first and batches > 0 and self._batches > batches:  # the first batch may compile
            self._batch_s = passed_s / (self._batches - batches)
        self._validated = False
        self._last = self._batches, used_s

    def _plan(
        self, trainer: Trainer, pl_module: LightningModule, used_s: float, end_s: float, batches: int
    ) -> None:
        """Set progress, epochs and the end; ``batches`` of this epoch are left, this one included."""
        remaining_s = self.deadline_s - end_s - used_s  # time to train
        if module := detection_module(pl_module):
            trained_s = self._before_s + used_s - _FINISH_S - (self._start_s or 0.0)
            module.schedule_progress = trained_s / (trained_s + remaining_s) if remaining_s > 0 else 1.0
        epoch, batch_s = trainer.current_epoch, self._batch_s
        after_s = remaining_s - batches * batch_s  # time to train after this epoch, if nothing is validated
        epochs = epoch + 1
        trainer.check_val_every_n_epoch = self._every
        if remaining_s <= 0 or remaining_s < (2 if batches == 1 else 1.5) * batch_s:
            trainer.should_stop, self._reached_s = True, self.deadline_s
            trainer.check_val_every_n_epoch = self._every and 1  # the end is validated
        elif not batch_s:
            epochs = max(trainer.max_epochs or 0, epoch + 2)
        elif after_s >= batch_s:
            per_epoch_s = int(trainer.num_training_batches) * batch_s + end_s
            epochs = epoch + 2 + int(max(after_s - end_s, 0) / per_epoch_s)
            if batches == 1 and after_s < end_s + batch_s and self._every:
                trainer.check_val_every_n_epoch = epoch + 2  # no validation in this epoch
        trainer.fit_loop.max_epochs = epochs
        self._look = self._batches
        self._look += batches_until_next_look(remaining_s, batch_s, self.deadline_s) if batch_s else 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = not trainer.sanity_checking
