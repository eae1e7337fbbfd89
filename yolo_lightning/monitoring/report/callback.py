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
    """Writes ``report.html`` when training ends, and when it is stopped.

    Being a ``Checkpoint`` that is listed after ``RunRecorder``, it comes when the other files of the run
    are there. It waits for what is still being drawn, and takes a moment itself; a run that fails has none
    of it. ``yolo-lightning report RUN`` makes it again.

    Args:
        directory: the run directory.
        queue: where files are drawn and written.
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
        except Exception as error:  # whatever it is, the run is whole without
            warnings.warn(f"the report could not be made ({type(error).__name__}: {error})", stacklevel=1)
            return
        pl_module.print(f"report         {path}")
