"""How callbacks show pictures and texts: TensorBoard's writer, its step, and what an error ends."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from ...system.lightning_internals import logging_step

_Hook = TypeVar("_Hook", bound=Callable[..., None])


def writer_of(trainer: Trainer) -> SummaryWriter | None:
    """TensorBoard's writer; None on all ranks but zero, and where another logger was asked for."""
    if not trainer.is_global_zero:
        return None
    loggers = (logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger))
    return next((logger.experiment for logger in loggers), None)


def step_of(trainer: Trainer) -> int:
    """The step at which Lightning logs scalars now: batches trained since the run began."""
    return logging_step(trainer)


def never_fatal(problem: str) -> Callable[[_Hook], _Hook]:
    """Let an error in a hook end what its callback shows, with a warning, and not the training.

    The callback has an ``is_broken``; once it is true, and on all ranks but zero, the hook does nothing.

    Args:
        problem: how the warning begins.
    """

    def guard(hook: _Hook) -> _Hook:
        @functools.wraps(hook)
        def guarded(self: Any, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
            if self.is_broken or not trainer.is_global_zero:
                return
            try:
                hook(self, trainer, *args, **kwargs)
            except Exception as error:
                self.is_broken = True
                what = f"{problem}: {type(error).__name__}: {error}"
                warnings.warn(f"{what}; training goes on without them", stacklevel=2)

        return guarded  # type: ignore[return-value]

    return guard


def log_encoded(writer: SummaryWriter, tag: str, contents: bytes, shape: tuple[int, ...], step: int) -> None:
    """Log a picture as the file it is; ``add_image`` would make a PNG of it, by way of several copies.

    A writer that was closed is left alone.

    Args:
        writer: TensorBoard's.
        tag: name of the picture.
        contents: of a JPEG or PNG file.
        shape: height, width and channels.
        step: that it belongs to.
    """
    file_writer: Any = getattr(writer, "file_writer", None)  # its type does not tell that it may be None
    if file_writer is None:
        return
    height, width, channels = shape
    image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=contents)
    file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
