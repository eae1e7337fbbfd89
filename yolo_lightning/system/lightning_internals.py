"""Every private name of Lightning that this package uses, under a public one.

``pyproject.toml`` admits only the minor release of Lightning for which these names were checked. For another
one, run ``tests/system/test_lightning_internals.py`` and adapt this file. It does not import Lightning: the
functions take its objects, and the classes are bases to list before Lightning's own.
"""

from __future__ import annotations

import threading
from typing import Any


def attached_trainer(module: Any) -> Any:
    """The trainer of a LightningModule; None if there is none, where ``module.trainer`` raises."""
    return module._trainer


def logging_step(trainer: Any) -> int:
    """Step at which Lightning logs scalars now: batches trained since the run began, over all epochs."""
    step: int = trainer.fit_loop.epoch_loop._batches_that_stepped
    return step


def advance_logging_step(trainer: Any) -> None:
    """Count a batch for the loggers, as Lightning does when a batch and its validation have ended."""
    trainer.fit_loop.epoch_loop._batches_that_stepped += 1


def is_validation_due(trainer: Any) -> bool:
    """Tell if a validation follows the batch at hand; also true where training stops with this batch."""
    loop = trainer.fit_loop
    return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))


def validates_by_clock(trainer: Any) -> bool:
    """Tell if ``val_check_interval`` is a time."""
    return trainer._val_check_time_interval is not None


def make_timed_validation_due(trainer: Any) -> None:
    """Set the clock of the validations back by one interval, if there is one."""
    if validates_by_clock(trainer):
        trainer._last_val_time -= trainer._val_check_time_interval


def is_stopping(trainer: Any) -> bool:
    """Tell if training ends with this batch by ``should_stop``: no minimum of epochs or steps forbids it."""
    return bool(trainer.should_stop and trainer.fit_loop._can_stop_early)


def leave_signals_alone(trainer: Any) -> None:
    """Keep Lightning from installing signal handlers, and from a broadcast before each batch."""
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def dump_checkpoint(trainer: Any) -> dict[str, Any]:
    """The contents of a checkpoint of now; all ranks call it together."""
    contents: dict[str, Any] = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    return contents


def leave_children_alone() -> None:
    """Keep Lightning from killing this process because another that it has started has ended."""
    observers: list[Any] = [t for t in threading.enumerate() if t.name == "child-process-observer"]
    for observer in observers:
        observer._child_processes = []


def has_checkpoint_io(strategy: Any) -> bool:
    """Tell if a strategy has a plugin that writes its checkpoints; false for the name of a strategy."""
    return not isinstance(strategy, str) and strategy is not None and strategy._checkpoint_io is not None


class LoopState:
    """The part of a checkpoint that holds the position of Lightning's loops; changes go into the checkpoint.

    Each position is a dictionary ``{"current": counts, "total": counts, ...}`` with ``counts`` of what is
    ``ready``, ``started``, ``processed`` and ``completed``: ``current`` in this epoch, ``total`` in the run.

    Raises:
        KeyError: the checkpoint holds no loops.
    """

    def __init__(self, checkpoint: dict[str, Any]) -> None:
        self._loop = checkpoint["loops"]["fit_loop"]
        self.epochs: dict[str, Any] = self._loop["epoch_progress"]
        self.batches: dict[str, Any] = self._loop["epoch_loop.batch_progress"]
        """Position in the training batches."""

    @property
    def validation_batches(self) -> dict[str, Any]:
        """Position in the validation batches."""
        progress: dict[str, Any] = self._loop["epoch_loop.val_loop.batch_progress"]
        return progress

    @property
    def loaders(self) -> list[dict[str, Any]]:
        """State of each training loader."""
        states: list[dict[str, Any]] = self._loop["state_dict"]["combined_loader"]
        return states

    @property
    def logging_step(self) -> int:
        """Step of the loggers; see :func:`logging_step`."""
        step: int = self._loop["epoch_loop.state_dict"]["_batches_that_stepped"]
        return step

    @logging_step.setter
    def logging_step(self, step: int) -> None:
        self._loop["epoch_loop.state_dict"]["_batches_that_stepped"] = step


class CheckpointHooks:
    """Base to list before ``ModelCheckpoint``, for :meth:`save` and what decides about saving."""

    def save(self, trainer: Any, path: str) -> None:
        """Save a checkpoint; to be overridden."""
        super()._save_checkpoint(trainer, path)  # type: ignore[misc]

    def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
        self.save(trainer, filepath)

    def candidates(self, trainer: Any) -> dict[str, Any]:
        """Metrics from which the monitor is taken; to be overridden."""
        metrics: dict[str, Any] = super()._monitor_candidates(trainer)  # type: ignore[misc]
        return metrics

    def _monitor_candidates(self, trainer: Any) -> dict[str, Any]:
        return self.candidates(trainer)

    def save_if_best(self: Any, trainer: Any) -> None:
        """Save if the metric of now is among the best."""
        self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def forget_last_save(self) -> None:
        """Let the next save happen also without an optimizer step since the last one."""
        self._last_global_step_saved = -1

    def note_save(self, trainer: Any, path: str) -> None:
        """Record a save that was done without Lightning."""
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = path


class EarlyStoppingHooks:
    """Base to list before ``EarlyStopping``, for :meth:`is_judged`."""

    def is_judged(self, logs: dict[str, Any]) -> bool:
        """Tell if the metrics hold a value to judge; to be overridden."""
        return bool(super()._validate_condition_metric(logs))  # type: ignore[misc]

    def _validate_condition_metric(self, logs: dict[str, Any]) -> bool:
        return self.is_judged(logs)

    def judge_after_validation(self) -> None:
        """Judge at the end of a validation, not of an epoch."""
        myself: Any = self
        myself._check_on_train_epoch_end = False


class CommandHooks:
    """Base to list before ``LightningCLI``, for its hooks and options that stay as given."""

    def add_arguments_of_subcommand(self, subcommand: str, parser: Any) -> None:
        """Add the options of one subcommand alone; to be overridden."""

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> Any:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)  # type: ignore[misc]
        self.add_arguments_of_subcommand(subcommand, parser)
        return parser

    def run_subcommand(self, subcommand: str) -> None:
        """Run the subcommand; to be overridden."""
        super()._run_subcommand(subcommand)  # type: ignore[misc]

    def _run_subcommand(self, subcommand: str) -> None:
        self.run_subcommand(subcommand)

    def _parse_ckpt_path(self) -> None:
        """Take no options from the checkpoint, where Lightning would take all its hyper-parameters."""
