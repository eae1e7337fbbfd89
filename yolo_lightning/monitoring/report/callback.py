"""The report at the end of a run."""

from __future__ import annotations

import warnings
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from ...runs.directory import METRICS
from ...system.background import BackgroundQueue
from .page import write_report


class RunReport(Checkpoint):
    """Writes ``report.html`` when training ends or is stopped, but not when it fails.

    It is a ``Checkpoint`` so that it runs after ``RunRecorder``, which writes what the report shows.

    Args:
        directory: the run directory.
        queue: draws and writes files in the background; the report waits for it.
    """

    def __init__(self, directory: str | Path, queue: BackgroundQueue) -> None:
        self.directory = Path(directory)
        self._queue = queue

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, (KeyboardInterrupt, SystemExit)):  # stopped from outside, not failed
            self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self._queue.drain()
        if not (self.directory / METRICS).is_file():
            return  # stopped within its first epoch
        try:
            path = write_report(self.directory)
        except Exception as error:  # the run is complete without a report
            warnings.warn(f"the report could not be made ({type(error).__name__}: {error})", stacklevel=1)
            return
        pl_module.print(f"report         {path}")
