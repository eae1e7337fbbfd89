"""TensorBoard's writer for callbacks, and pictures for it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from ..pictures.draw_boxes import Pixels, encode


def writer_of(trainer: Trainer) -> SummaryWriter | None:
    """Return TensorBoard's writer; None on other ranks than zero and with other loggers."""
    if not trainer.is_global_zero:
        return None
    loggers = (logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger))
    return next((logger.experiment for logger in loggers), None)


def log_picture(
    writer: SummaryWriter | None,
    tag: str,
    picture: Pixels,
    step: int,
    suffix: str = ".png",
) -> bytes:
    """Log a picture, and return the contents of its file; ``add_image`` would only write PNG.

    Args:
        writer: TensorBoard's; None and a closed writer log nothing.
        tag: name of the picture.
        picture: RGB (H, W, 3).
        step: of the run.
        suffix: of a file of its format, ``.jpg`` or ``.png``.
    """
    contents = encode(picture, suffix)
    file_writer: Any = writer and writer.file_writer  # None if closed, which its type does not say
    if file_writer is not None:
        height, width, channels = picture.shape
        image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=contents)
        file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
    return contents
