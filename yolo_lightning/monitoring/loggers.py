"""Pictures for every logger that takes them: TensorBoard, Weights & Biases, MLflow, Comet and Aim."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import singledispatch
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CometLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.compat.proto.summary_pb2 import Summary

from .pictures.draw_boxes import Pixels, encode


def picture_loggers(trainer: Trainer) -> list[Logger]:
    """List the loggers of a run that take pictures; none on other ranks than zero.

    Their connections are open: that must not happen on a background thread.
    """
    if not trainer.is_global_zero:
        return []
    kinds = TensorBoardLogger | WandbLogger | MLFlowLogger | CometLogger
    loggers = [logger for logger in trainer.loggers if isinstance(logger, kinds) or _is_aim(logger)]
    return [logger for logger in loggers if logger.experiment is not None]  # type: ignore[attr-defined]


def log_picture(
    loggers: Iterable[Logger], tag: str, picture: Pixels, step: int, suffix: str = ".png"
) -> bytes:
    """Log a picture, and return the contents of its file.

    Args:
        loggers: from :func:`picture_loggers`.
        tag: name of the picture.
        picture: RGB (H, W, 3).
        step: of the run.
        suffix: of a file of its format, ``.jpg`` or ``.png``.
    """
    contents = encode(picture, suffix)
    for logger in loggers:
        _log(logger, tag, picture, contents, step)
    return contents


def _is_aim(logger: Logger) -> bool:
    return type(logger).__name__ == "AimLogger"  # part of Aim, not of Lightning


@singledispatch
def _log(logger: Any, tag: str, picture: Pixels, contents: bytes, step: int) -> None:
    """Log a picture, which is given both as pixels and as a file."""
    if _is_aim(logger):
        image = sys.modules["aim"].Image(picture)  # who made the logger has imported it
        logger.experiment.track(image, name=tag, step=step)


@_log.register
def _(logger: TensorBoardLogger, tag: str, picture: Pixels, contents: bytes, step: int) -> None:
    file_writer: Any = logger.experiment.file_writer  # None if closed, which its type does not say
    if file_writer is not None:
        height, width, channels = picture.shape
        # SummaryWriter.add_image would only write PNG.
        image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=contents)
        file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


@_log.register
def _(logger: WandbLogger, tag: str, picture: Pixels, contents: bytes, step: int) -> None:
    logger.log_image(tag, [picture], step)


@_log.register
def _(logger: MLFlowLogger, tag: str, picture: Pixels, contents: bytes, step: int) -> None:
    logger.experiment.log_image(str(logger.run_id), picture, key=tag, step=step)


@_log.register
def _(logger: CometLogger, tag: str, picture: Pixels, contents: bytes, step: int) -> None:
    logger.experiment.log_image(picture, name=tag, step=step)
