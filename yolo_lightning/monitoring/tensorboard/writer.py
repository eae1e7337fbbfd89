"""TensorBoard's writer and step for callbacks, and protection of the training from their errors."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

_Hook = TypeVar("_Hook", bound=Callable[..., None])


def writer_of(trainer: Trainer) -> SummaryWriter | None:
    """Return TensorBoard's writer; None on other ranks than zero and with other loggers."""
    if not trainer.is_global_zero:
        return None
    loggers = (logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger))
    return next((logger.experiment for logger in loggers), None)


def never_fatal(problem: str) -> Callable[[_Hook], _Hook]:
    """Decorator of a callback's hooks: an error ends the callback with a warning, not the training.

    It sets the callback's ``is_broken``. Then, and on other ranks than zero, the hook does nothing.

    Args:
        problem: beginning of the warning.
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
                warnings.warn(f"{what}; training continues without them", stacklevel=2)

        return guarded  # type: ignore[return-value]

    return guard


def log_encoded(writer: SummaryWriter, tag: str, contents: bytes, shape: tuple[int, ...], step: int) -> None:
    """Log a JPEG or PNG file; ``add_image`` would encode it again. A closed writer is ignored.

    Args:
        writer: TensorBoard's.
        tag: name of the picture.
        contents: bytes of the file.
        shape: height, width and channels.
        step: of the run.
    """
    file_writer: Any = writer.file_writer
    if file_writer is not None:  # None if closed, which its type does not say
        height, width, channels = shape
        image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=contents)
        file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
