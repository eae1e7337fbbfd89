"""Where pictures and texts are logged: TensorBoard's writer, and the step that the curves are at."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter


def writer_of(trainer: Trainer) -> SummaryWriter | None:
    """TensorBoard's writer; None on all ranks but zero, and where another logger was asked for."""
    if not trainer.is_global_zero:
        return None
    loggers = (logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger))
    return next((logger.experiment for logger in loggers), None)


def step_of(trainer: Trainer) -> int:
    """The step at which Lightning logs scalars now: batches trained since the run began."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped
