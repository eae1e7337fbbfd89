"""Checkpoints within an epoch, and stopping.

A signal sets a flag (``system/signals.py``). The ranks compare their flags (``distributed/agreement.py``)
and act together, depending on where the run is:

* Before training there is nothing to save: the run stops at ``on_train_start``.
* In an epoch the ranks exchange flags at the end of each training batch, and read those of the batch before.
  To save or to stop, ``Interruption`` writes ``last.ckpt``; to stop, it then ends the process.
* At the last batch before a validation or the end of an epoch a request is postponed: a checkpoint from here
  would skip the validation.
* In a validation the ranks exchange flags at the end of each batch. To stop, the validation is aborted, and
  ``last.ckpt`` is saved with ``validates_first``. A validation that ends training is finished.
* At the end of an epoch ``RunRecorder`` writes the row, ``EpochCheckpoint`` saves best and last, and the
  report is written, in the order of ``cli/fit_callbacks.py``; then ``Interruption`` stops. A run that ends
  here anyway ends as usual.

A run that resumes is at one of three positions: the start of an epoch, a batch of an epoch, or the start of a
validation. ``checkpoint_format.read_resumption`` reads which one. Lightning restores its loops, and
``MidEpochResumption`` restores the rest.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities import rank_zero_info

from ..distributed.agreement import Agreement
from ..distributed.failure import FailedElsewhere
from ..system import signals
from ..system.lightning_internals import is_stopping, is_validation_due, leave_signals_alone
from .checkpoint_format import validate_first
from .checkpoint_io import RunCheckpointIO
from .resumption import random_state


class Interruption(Checkpoint):
    """Saves ``last.ckpt`` within an epoch, and stops the run.

    It saves every few minutes, and when training ends within an epoch: by a signal to any rank, by
    ``max_steps`` or ``max_time``, or by early stopping. After a signal the process ends with
    ``signals.EXIT_STATUS``; a Slurm job is requeued first.

    As a ``Checkpoint`` that is listed last, it runs after all other callbacks at the end of a batch or an
    epoch. It replaces Lightning's signal handlers, which save and call other ranks inside the handler, and
    Lightning's broadcast before each batch, which makes the host wait.

    Args:
        path: ``last.ckpt``; None if checkpoints are turned off.
        minutes: time between two checkpoints within an epoch; 0 saves only before a stop.
    """

    def __init__(self, path: Path | None, minutes: float) -> None:
        self.path = path
        self.interval_s = minutes * 60
        self._agreement: Agreement
        self._io: RunCheckpointIO | None = None
        self._saved_s = 0.0
        self._saved_batch = -1
        self._saved_best: list[float] = []
        self._postponed = False, False
        """Requests (stop, save) postponed at the last batch before a validation or the end of an epoch."""
        self._looks = 0  # validation batches that remain for an exchange of flags
        self._aborts_validation = False
        self._random: dict[str, Any] = {}
        """States of the random generators before a validation, whose loader draws from them."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._agreement = Agreement(flags=3)
        io = trainer.strategy.checkpoint_io
        self._io = io if isinstance(io, RunCheckpointIO) else None
        if self._io:  # otherwise the other ranks would wait in the save for rank zero
            self._io.keeps_errors = trainer.world_size > 1
        leave_signals_alone(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.training_begins()
        self._saved_s = monotonic()
        self._random = random_state()
        stop, _ = self._ask(self._agreement.settle, trainer)
        if stop:
            self._stop(trainer, "before training began")

    def _ask(
        self, agree: Callable[[list[bool]], list[bool]], trainer: Trainer, save: bool = False
    ) -> tuple[bool, bool]:
        """Return whether the ranks stop and whether they save; end all if a checkpoint was not written."""
        failed = self._io is not None and self._io.failed
        stop, save, failed = agree([signals.received() is not None, save, failed])
        if failed:
            if trainer.is_global_zero and self._io is not None:
                self._io.wait()  # raises what went wrong
            raise FailedElsewhere("a checkpoint could not be written")
        return stop, save

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        is_due = self.interval_s > 0 and monotonic() - self._saved_s >= self.interval_s
        if is_due:
            self._saved_s = monotonic()  # not again in the next batch, when the other ranks learn of it
        stop, save = self._ask(self._agreement.exchange, trainer, save=is_due and trainer.is_global_zero)
        loop = trainer.fit_loop.epoch_loop
        stop, save = stop or self._postponed[0], save or self._postponed[1]
        if loop.batch_progress.is_last_batch or _is_validation_due(trainer):
            self._postponed = stop, save  # a run that resumed from here would skip the validation
            self._random = random_state()
            return
        self._postponed = False, False
        if stop or save or loop.done:
            self._save(trainer)
        if stop:
            self._stop(trainer, f"in epoch {trainer.current_epoch + 1}, after batch {batch_idx + 1}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._looks = 0
        if trainer.sanity_checking or _is_ending(trainer):
            return
        if self._postponed[0]:
            self._abort_validation(trainer)
        # Ranks evaluate images of different shapes, so the number of batches differs.
        self._looks = self._agreement.least(int(sum(trainer.num_val_batches)))

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self._looks == 0:
            return
        self._looks -= 1
        stop, save = self._ask(self._agreement.exchange, trainer)
        self._postponed = self._postponed[0], self._postponed[1] or save
        if stop:
            self._abort_validation(trainer)

    def _abort_validation(self, trainer: Trainer) -> NoReturn:
        self._aborts_validation = True
        self._save(trainer)
        self._stop(trainer, f"in epoch {trainer.current_epoch + 1}, before the end of a validation")

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._aborts_validation:
            validate_first(checkpoint, self._random)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save when training ends with a validation within an epoch.

        If only ``max_time`` triggered this validation, the checkpoint was saved before it. Save again if it
        is a new best; otherwise a resumed run could replace best.ckpt by a worse one.
        """
        loop = trainer.fit_loop.epoch_loop
        if not (trainer.sanity_checking or loop.batch_progress.is_last_batch) and loop.done:
            if self._saved_best != _best_scores(trainer):
                self._saved_batch = -1
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        """Save within an epoch, at most once a batch."""
        batch = trainer.fit_loop.total_batch_idx
        if self.path is None or batch == self._saved_batch:
            return
        for logger in trainer.loggers:
            logger.save()  # a run that resumes does not log it again
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved_s, self._saved_batch, self._saved_best = monotonic(), batch, _best_scores(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_s = monotonic()
        stop, _ = self._ask(self._agreement.settle, trainer)
        stop, self._postponed = stop or self._postponed[0], (False, False)
        is_last = 0 <= (trainer.max_epochs or -1) <= trainer.current_epoch + 1
        if stop and not (is_last or _is_ending(trainer)):
            self._stop(trainer, f"after epoch {trainer.current_epoch + 1}")

    def _stop(self, trainer: Trainer, where: str) -> NoReturn:
        # A requeued job may start at once.
        self._io.finish() if self._io else trainer.strategy.checkpoint_io.teardown()
        self._ask(self._agreement.settle, trainer)
        reason = signals.received() or "a signal to another process"
        rank_zero_info(f"stopped by {reason} {where}")
        if trainer.is_global_zero:
            slurm = signals.in_slurm_job() and signals.received() != "SIGINT"
            rank_zero_info(signals.requeue() if slurm else self._how_to_go_on(trainer))
        trainer.strategy.barrier("stop")  # srun ends all processes when one has ended
        raise SystemExit(_exit_status(trainer))

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


def _exit_status(trainer: Trainer) -> int:
    """75, but 0 for processes that Lightning started here, which have no ``RANK``.

    Lightning's watcher takes any other status for a crash, and kills the main process while it cleans up.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    is_started_by_lightning = isinstance(environment, LightningEnvironment) and "RANK" not in os.environ
    is_child = is_started_by_lightning and trainer.local_rank > 0
    return 0 if is_child else signals.EXIT_STATUS


def _is_ending(trainer: Trainer) -> bool:
    """Tell if training ends here, apart from the last epoch; no run would resume in the validation then."""
    return is_stopping(trainer) or 0 <= trainer.max_steps <= trainer.global_step


def _is_validation_due(trainer: Trainer) -> bool:
    """Tell if a validation follows this batch, apart from one that a stop causes."""
    stops, trainer.should_stop = trainer.should_stop, False
    try:
        return is_validation_due(trainer)
    finally:
        trainer.should_stop = stops


def _best_scores(trainer: Trainer) -> list[float]:
    kept = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    return [float(each.best_model_score) for each in kept if each.best_model_score is not None]
