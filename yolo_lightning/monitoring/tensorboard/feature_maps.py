"""Feature maps of a validation image, in TensorBoard."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.tensorboard import SummaryWriter

from ...data.augment import normalise
from ...data.batch import Batch
from ...data.letterbox import to_letterbox
from ...errors import InputError
from ...model.network import DetectionNetwork
from ...system.background import BackgroundQueue
from ...training.contracts import TrainsDetections
from .. import features
from ..pictures import SCORE_THRESHOLD, encode
from .writer import log_encoded, never_fatal, step_of, writer_of


class FeatureMapPictures(Callback):
    """Logs feature maps of the first validation image, with the weights that are validated.

    ``features/layer_N`` is a grid of the channels of layer N that vary most, ``features/attention`` the
    image with its attention (see ``features.attention_map``). Rank zero runs its network on one more image
    in a validation, without gradients; the queue draws and writes. An error ends the pictures with a
    warning, not the training.

    Args:
        every: epochs between two sets, 1 or more; the first validation gives the first set.
        queue: background queue.
        layers: numbers of the layers; default: those that the head reads.

    Raises:
        InputError: ``every`` is not positive.
    """

    def __init__(self, every: int, queue: BackgroundQueue, layers: Sequence[int] | None = None) -> None:
        if every < 1:
            raise InputError(f"dashboard.feature_maps_every is {every}; feature maps need 1 or more")
        self.every = every
        self.queue = queue
        self.layers = None if layers is None else list(layers)
        self.is_broken = False
        """An error has ended the pictures."""
        self._drawn_epoch: int | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the layers exist, before any time is spent."""
        if self.layers is not None:
            features.check_layers(_network(pl_module), self.layers)

    @never_fatal("feature maps cannot be drawn")
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log the maps of the first batch; here the network has the validated weights."""
        if batch_idx or dataloader_idx or not self._is_due(trainer):
            return
        writer = writer_of(trainer)
        if writer is None:
            return
        self._submit(writer, step_of(trainer), _network(pl_module), outputs, batch)
        self._drawn_epoch = trainer.current_epoch

    def _is_due(self, trainer: Trainer) -> bool:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return False
        return self._drawn_epoch is None or trainer.current_epoch - self._drawn_epoch >= self.every

    def _submit(
        self, writer: SummaryWriter, step: int, network: DetectionNetwork, outputs: Any, batch: Batch
    ) -> None:
        first = batch.images[:1]  # uint8 (1, 3, H, W)
        layers = self.layers or network.head_sources
        _, found = features.feature_maps(network, normalise(first), layers)
        arrays = {number: value[0].float().cpu().numpy() for number, value in found.items()}  # (C, h, w)
        detections = outputs["detections"][0].float()  # (D, 6)
        sure = detections[detections[:, 4] >= SCORE_THRESHOLD]  # padding has a score of 0
        boxes = to_letterbox(sure[:, :4], batch.letterbox[0]).cpu().numpy()
        image = first[0].permute(1, 2, 0).cpu().numpy().copy()  # (H, W, 3)
        self.queue.submit(functools.partial(_draw, writer, step, arrays, boxes, image))


def _draw(
    writer: SummaryWriter,
    step: int,
    arrays: dict[int, npt.NDArray[np.float32]],
    boxes: npt.NDArray[np.float32],
    image: npt.NDArray[np.uint8],
) -> None:
    height, width = image.shape[:2]
    attention = features.attention_map(list(arrays.values()), boxes, (height, width))
    pictures = {f"layer_{number}": features.draw_grid(array) for number, array in arrays.items()}
    pictures["attention"] = features.draw_overlay(image, attention)
    for name, picture in pictures.items():
        log_encoded(writer, f"features/{name}", encode(picture, ".png"), picture.shape, step)


def _network(pl_module: LightningModule) -> DetectionNetwork:
    return cast(TrainsDetections, pl_module).network
