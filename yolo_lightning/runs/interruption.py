"""Checkpoints within an epoch, and the end of a run that was asked to stop."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities import rank_zero_info

from ..distributed.agreement import Agreement
from ..distributed.failure import FailedElsewhere
from ..system import signals as preemption
from ..system.lightning_internals import is_stopping, is_validation_due, leave_signals_alone
from .checkpoint_io import RunCheckpointIO
from .resumption import random_state, validate_first


class Interruption(Checkpoint):
    """Saves ``last.ckpt`` within an epoch: every few minutes, and when the run has to stop there.

    A run has to stop when a signal has asked any of its ranks to (see ``preemption``), when a limit on
    time or steps is reached, or for want of patience. The ranks agree on it and save together at the
    end of a batch, of training or of validation. After a signal the process ends with
    ``preemption.EXIT_STATUS``; a Slurm job is queued again first. A validation is left as if it had not
    begun, and a run that resumes begins with it; only one with which training ends is finished. At the
    end of an epoch the epoch's own checkpoint is enough. A run that ends there anyway ends as usual.

    Being a ``Checkpoint`` that is listed last, it runs after everything else at the end of a batch
    or an epoch. Lightning's own handlers, which save and talk to other ranks inside the handler, are
    left out, and with them its broadcast before each batch, for which the host waits.

    Args:
        path: Of ``last.ckpt``; None where checkpoints are turned off.
        minutes: Between two checkpoints within an epoch; 0 saves none but those before a stop.
    """

    def __init__(self, path: Path | None, minutes: float) -> None:
        self.path = path
        self.interval_s = minutes * 60
        self._agreement: Agreement
        self._saved_s = 0.0
        self._saved_batch = -1
        self._saved_best: list[float] = []
        self._postponed = False, False
        """What is asked for (stop, save) at the last batch before a validation, or of an epoch."""
        self._looks = 0
        """At the ends of how many more batches of a validation the ranks ask each other."""
        self._leaves_validation = False
        self._random: dict[str, Any] = {}
        """Random numbers before a validation, whose loader draws some when it is started."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._agreement = Agreement(flags=3)
        io = trainer.strategy.checkpoint_io
        if isinstance(io, RunCheckpointIO):  # or else the other ranks would wait in the save for rank zero
            io.keeps_errors = trainer.world_size > 1
        leave_signals_alone(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        preemption.training_begins()
        self._saved_s = monotonic()
        self._random = random_state()
        stop, _, _ = self._agreement.settle([_asked(), False, False])
        if stop:
            self._stop(trainer, "before training began")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        is_due = self.interval_s > 0 and monotonic() - self._saved_s >= self.interval_s
        if is_due:
            self._saved_s = monotonic()  # asked for once, although the other ranks learn of it a batch later
        stop, save, failed = self._agreement.exchange(
            [_asked(), is_due and trainer.is_global_zero, _has_failed(trainer)]
        )
        if failed:
            self._tell_of_failure(trainer)
        loop = trainer.fit_loop.epoch_loop
        stop, save = stop or self._postponed[0], save or self._postponed[1]
        if loop.batch_progress.is_last_batch or _is_validation_due(trainer):
            self._postponed = stop, save  # a run that resumed from here would leave the validation out
            self._random = random_state()
            return
        self._postponed = False, False
        if stop or save or loop.done:
            self._save(trainer)
        if stop:
            self._stop(trainer, f"in epoch {trainer.current_epoch + 1}, after batch {batch_idx + 1}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._looks = 0
        if trainer.sanity_checking or _ends_with_validation(trainer):
            return
        if self._postponed[0]:
            self._leave_validation(trainer)
        # Ranks have their own images, of different shapes, and so not equally many batches.
        self._looks = self._agreement.least(int(sum(trainer.num_val_batches)))

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self._looks == 0:
            return
        self._looks -= 1
        stop, save, failed = self._agreement.exchange([_asked(), False, _has_failed(trainer)])
        self._postponed = self._postponed[0], self._postponed[1] or save
        if failed:
            self._tell_of_failure(trainer)
        if stop:
            self._leave_validation(trainer)

    def _leave_validation(self, trainer: Trainer) -> NoReturn:
        self._leaves_validation = True
        self._save(trainer)
        self._stop(trainer, f"in epoch {trainer.current_epoch + 1}, before the end of a validation")

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._leaves_validation:
            validate_first(checkpoint, self._random)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save when training ends with a validation within an epoch, by patience or a limit.

        One that only a limit on time brings about comes after the save, as the run that resumes does not
        know of it; it is saved all the same when it is the best one, or a worse one would take its place.
        """
        loop = trainer.fit_loop.epoch_loop
        if not (trainer.sanity_checking or loop.batch_progress.is_last_batch) and loop.done:
            if self._saved_best != _best_scores(trainer):
                self._saved_batch = -1
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        """Save within an epoch, once a batch."""
        batch = trainer.fit_loop.total_batch_idx
        if self.path is None or batch == self._saved_batch:
            return
        for logger in trainer.loggers:
            logger.save()  # what was logged so far is not logged again
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved_s, self._saved_batch, self._saved_best = monotonic(), batch, _best_scores(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_s = monotonic()
        stop, _, failed = self._agreement.settle([_asked(), False, _has_failed(trainer)])
        if failed:
            self._tell_of_failure(trainer)
        stop, self._postponed = stop or self._postponed[0], (False, False)
        if stop and not _is_finished(trainer):
            self._stop(trainer, f"after epoch {trainer.current_epoch + 1}")

    def _tell_of_failure(self, trainer: Trainer) -> None:
        """End on all ranks because a checkpoint could not be written; rank zero says why."""
        io = trainer.strategy.checkpoint_io
        if trainer.is_global_zero and isinstance(io, RunCheckpointIO):
            io.wait()  # raises what went wrong
        raise FailedElsewhere("a checkpoint could not be written")

    def _stop(self, trainer: Trainer, where: str) -> NoReturn:
        io = trainer.strategy.checkpoint_io  # writes all now: a job that is queued again may start at once
        io.finish() if isinstance(io, RunCheckpointIO) else io.teardown()
        if self._agreement.settle([False, False, _has_failed(trainer)])[2]:
            self._tell_of_failure(trainer)
        reason = preemption.received() or "a signal to another process"
        rank_zero_info(f"stopped by {reason} {where}")
        if trainer.is_global_zero:
            slurm = preemption.in_slurm_job() and preemption.received() != "SIGINT"
            rank_zero_info(preemption.requeue() if slurm else self._how_to_go_on(trainer))
        trainer.strategy.barrier("stop")  # srun ends the others when one has ended
        raise SystemExit(exit_status(trainer))

    def _how_to_go_on(self, trainer: Trainer) -> str:
        if self.path is None:
            return "no checkpoint was saved, because checkpoints are turned off"
        if not self.path.is_file():
            return "nothing was saved, because nothing was trained yet"
        option = f"--ckpt_path {shlex.quote(str(self.path))}"
        starts_the_others = bool(getattr(trainer.strategy.launcher, "procs", None))
        if trainer.world_size > 1 and not starts_the_others:
            return f"resume with what started these {trainer.world_size} processes, and {option}"
        return f"resume with   yolo-lightning fit {option}"


def exit_status(trainer: Trainer) -> int:
    """Status of a process that was asked to stop.

    It is 0 in processes that Lightning started here, which have no ``RANK``: Lightning would take another
    status for a crash, and kill the process that started them while it cleans up.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    is_started_by_lightning = isinstance(environment, LightningEnvironment) and "RANK" not in os.environ
    is_child = is_started_by_lightning and trainer.local_rank > 0
    return 0 if is_child else preemption.EXIT_STATUS


def _is_finished(trainer: Trainer) -> bool:
    """Whether training comes to its end with the epoch that ends now."""
    epochs, steps = trainer.max_epochs or -1, trainer.max_steps
    return (
        0 <= epochs <= trainer.current_epoch + 1 or 0 <= steps <= trainer.global_step or is_stopping(trainer)
    )


def _ends_with_validation(trainer: Trainer) -> bool:
    """Whether training ends with the validation at hand, so that nobody would come back to it."""
    return is_stopping(trainer) or 0 <= trainer.max_steps <= trainer.global_step


def _is_validation_due(trainer: Trainer) -> bool:
    """Whether a validation follows the batch at hand that is no consequence of a stop."""
    stops, trainer.should_stop = trainer.should_stop, False
    try:
        return is_validation_due(trainer)
    finally:
        trainer.should_stop = stops


def _best_scores(trainer: Trainer) -> list[float]:
    """Of the best checkpoints so far."""
    kept = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    return [float(each.best_model_score) for each in kept if each.best_model_score is not None]


def _asked() -> bool:
    return preemption.received() is not None


def _has_failed(trainer: Trainer) -> bool:
    io = trainer.strategy.checkpoint_io
    return isinstance(io, RunCheckpointIO) and io.failed
