"""Pictures of a run in its loggers and its directory: labels, predictions, mistakes, feature maps."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor

from ...data.augment import normalise
from ...data.batch import Batch
from ...data.image_size import as_size, describe
from ...data.letterbox import to_letterbox
from ...data.loading.ordered import data_that_tells
from ...system.background import BackgroundQueue, Pace
from ...system.files import write_whole
from ...system.lightning_internals import logging_step
from ...training.contracts import TrainsDetections, detection_data
from .. import features
from ..loggers import log_picture, picture_loggers
from ..pictures.draw_boxes import Floats, Pixels
from ..pictures.labels import draw_label_statistics, label_statistics
from ..pictures.panels import draw_augmented, draw_predictions, draw_worst
from ..pictures.views import (
    SCORE_THRESHOLD,
    EvaluatedImage,
    ImageView,
    WorstMistakes,
    cut_view,
    split_batch,
)

FOLDER = "pictures"
"""Folder in the run directory, and prefix of the tags."""

_SHARE = 0.005
"""Share of one core's time that panels may take."""

_Hook = TypeVar("_Hook", bound=Callable[..., None])


def _never_fatal(hook: _Hook) -> _Hook:
    """Decorator of a ``_Drawing``: an error ends its pictures with a warning, not the training.

    Then, and on other ranks than zero, the hook does nothing.
    """

    @functools.wraps(hook)
    def guarded(self: _Drawing, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if self.is_broken or not trainer.is_global_zero:
            return
        try:
            hook(self, trainer, *args, **kwargs)
        except Exception as error:
            self.is_broken = True
            what = f"{self.problem}: {type(error).__name__}: {error}"
            warnings.warn(f"{what}; training continues without them", stacklevel=2)

    return guarded  # type: ignore[return-value]


class _Drawing(Callback):
    """Base of callbacks that draw validations of a fit.

    Args:
        every: least number of epochs between two sets, 1 or more; the first validation gives the first set.
        queue: background queue.
    """

    problem = "pictures cannot be made"
    """Beginning of the warning of an error."""

    def __init__(self, every: int, queue: BackgroundQueue) -> None:
        self.every = every
        self.queue = queue
        self.is_broken = False
        """An error has ended the pictures."""
        self._drawn_epoch: int | None = None
        """Epoch of the newest pictures of a validation."""

    def _is_due(self, trainer: Trainer) -> bool:
        return self._drawn_epoch is None or trainer.current_epoch - self._drawn_epoch >= self.every

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the last pictures, because the logger is closed next."""
        self.queue.drain()


class Pictures(_Drawing):
    """Draws the labels, the images as the network sees them, its predictions, and its worst errors.

    ``pictures/labels`` (once), ``pictures/augmented``, ``pictures/predictions`` and ``pictures/worst`` are
    logged, and the newest of each is a file in ``directory/pictures``: ``labels.png``,
    ``augmented.jpg``, ``predictions.jpg``, ``worst.jpg``. Rank zero draws the images that it has.

    Copies from the device are made in validation and at the end of an epoch, never in a training step; the
    queue draws and writes. A set is skipped when drawing would take more than half a percent of a core's
    time, except the first one and that of the last planned validation. An error ends the pictures, not the
    training.

    Args:
        directory: the run directory.
        count: images in each panel.
        every: least number of epochs between two sets.
        queue: background queue.
    """

    def __init__(
        self, directory: str | Path, count: int = 8, every: int = 1, queue: BackgroundQueue | None = None
    ) -> None:
        super().__init__(every, queue or BackgroundQueue())
        self.folder = Path(directory) / FOLDER
        self.count = count
        self._pace = Pace(_SHARE)
        self._augmented: tuple[int, Tensor, Tensor, Tensor] | None = None
        self._worst: WorstMistakes | None = None
        """Worst mistakes of the current validation; None if it is not drawn."""
        self._shown: list[tuple[EvaluatedImage, ImageView]] = []

    @_never_fatal
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the labels, unless a resumed run has them."""
        index, data = _index(trainer, "train"), detection_data(trainer)
        if not index or not data or (logging_step(trainer) > 0 and (self.folder / "labels.png").exists()):
            return
        image_size = as_size(data.image_size)
        title = f"{index.split} split, at {describe(image_size)}"

        def draw() -> Pixels:
            return draw_label_statistics(label_statistics(index, image_size), index.class_names, title)

        step, loggers = logging_step(trainer), picture_loggers(trainer)
        self.queue.submit(_publish, draw, self.folder / "labels.png", loggers, step)

    @_never_fatal
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch % self.every == 0 and self._pace.is_due():
            module = cast(TrainsDetections, pl_module)
            module.on_augmented = functools.partial(self._keep, trainer, module)

    @_never_fatal
    @torch.no_grad()
    def _keep(
        self, trainer: Trainer, module: TrainsDetections, images: Tensor, targets: Tensor, mask: Tensor
    ) -> None:
        """Keep the first images of the first batch on the device; nothing waits for the copy."""
        module.on_augmented = None
        pixels = (images[: self.count].detach() * 255).round_().to(torch.uint8)
        self._augmented = logging_step(trainer), pixels, targets.detach().clone(), mask.clone()

    @_never_fatal
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._augmented is None:
            return
        step, pixels, targets, mask = self._augmented
        self._augmented = None
        images = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()  # (n, H, W, 3)
        labels = targets.float().cpu()[mask.cpu()].numpy()  # (T, 6)
        names = cast(TrainsDetections, pl_module).label_names
        draw = functools.partial(draw_augmented, images, labels, names)
        self._submit(trainer, "augmented.jpg", step, draw)

    @_never_fatal
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._worst, self._shown = None, []
        in_pace = self._drawn_epoch is None or self._pace.is_due()
        if _is_of_fit(trainer) and (_is_last_validated(trainer) or (self._is_due(trainer) and in_pace)):
            self._worst = WorstMistakes(self.count)

    @_never_fatal
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Copy the images to draw from the device, for which validation waits anyway."""
        if self._worst is None or dataloader_idx > 0 or not isinstance(outputs, dict):
            return
        images = split_batch(batch, outputs["detections"], outputs["counts"])
        for image in images:
            self._worst.add(image)
        for image in images[: self._wanted(trainer, batch_idx)]:
            self._shown.append((image.without_pixels(), cut_view(image)))

    def _wanted(self, trainer: Trainer, batch_idx: int) -> int:
        """Number of images to show from a batch: each batch gives its share, the same in each epoch."""
        batches = trainer.num_val_batches[0]
        share = (batch_idx + 1) / batches if 0 < batches < math.inf else 1.0
        return max(0, math.ceil(self.count * share) - len(self._shown))

    @_never_fatal
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        worst, shown = self._worst, self._shown
        self._worst, self._shown = None, []
        if worst is None or not shown:
            return
        self._drawn_epoch = trainer.current_epoch
        step, names = logging_step(trainer), cast(TrainsDetections, pl_module).label_names
        captions = [_image_name(trainer, image) for image, _ in shown]
        draw = functools.partial(draw_predictions, shown, captions, names)
        self._submit(trainer, "predictions.jpg", step, draw)
        if mistakes := worst.take(self.count):
            captions = [_image_name(trainer, mistake.image) for mistake in mistakes]
            draw = functools.partial(draw_worst, mistakes, captions, names)
            self._submit(trainer, "worst.jpg", step, draw)
        else:  # or old mistakes would stand beside new predictions
            self.queue.submit((self.folder / "worst.jpg").unlink, missing_ok=True)

    def _submit(self, trainer: Trainer, name: str, step: int, draw: Callable[[], Pixels]) -> None:
        loggers = picture_loggers(trainer)
        self.queue.submit(self._pace.run, _publish, draw, self.folder / name, loggers, step)


def _publish(draw: Callable[[], Pixels], path: Path, loggers: list[Logger], step: int) -> None:
    """Draw a picture, log it, and write it to its file."""
    write_whole(path, log_picture(loggers, f"{FOLDER}/{path.stem}", draw(), step, path.suffix))


def _is_of_fit(trainer: Trainer) -> bool:
    """Tell if a validation belongs to a fit, and is not its sanity check."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def _is_last_validated(trainer: Trainer) -> bool:
    """Tell if no later epoch is going to be validated."""
    every = trainer.check_val_every_n_epoch or 1
    return 0 < (trainer.max_epochs or -1) < trainer.current_epoch + 1 + every


def _index(trainer: Trainer, split: str) -> Any:
    """Index of a split; None without our data module."""
    data = data_that_tells(trainer)
    return data and data.indices.get(split)


def _image_name(trainer: Trainer, image: EvaluatedImage) -> str:
    index = _index(trainer, "val")
    return f"image {image.image_id}" if index is None else str(index.path(image.position).name)


class FeatureMapPictures(_Drawing):
    """Logs feature maps of the first validation image, with the weights that are validated.

    ``features/layer_N`` is a grid of the channels that vary most in layer N, one that the head reads, and
    ``features/attention`` the image with its attention (see ``features.attention_map``). Rank zero runs its
    network on one more image in a validation, without gradients; the queue draws and writes. An error ends
    the pictures with a warning, not the training.
    """

    problem = "feature maps cannot be drawn"

    @_never_fatal
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
        is_first = batch_idx == dataloader_idx == 0 and _is_of_fit(trainer)
        loggers, network = picture_loggers(trainer), cast(TrainsDetections, pl_module).network
        if not (loggers and is_first and self._is_due(trainer)):
            return
        first = batch.images[:1]  # uint8 (1, 3, H, W)
        _, found = features.feature_maps(network, normalise(first), network.head_sources)
        arrays = {number: value[0].float().cpu().numpy() for number, value in found.items()}  # (C, h, w)
        detections = outputs["detections"][0].float()  # (D, 6)
        sure = detections[detections[:, 4] >= SCORE_THRESHOLD]  # padding has a score of 0
        boxes = to_letterbox(sure[:, :4], batch.letterbox[0]).cpu().numpy()
        image = first[0].permute(1, 2, 0).cpu().numpy().copy()  # (H, W, 3)
        self.queue.submit(_draw_features, loggers, logging_step(trainer), arrays, boxes, image)
        self._drawn_epoch = trainer.current_epoch


def _draw_features(
    loggers: list[Logger], step: int, arrays: dict[int, Floats], boxes: Floats, image: Pixels
) -> None:
    height, width = image.shape[:2]
    attention = features.attention_map(list(arrays.values()), boxes, (height, width))
    pictures = {f"layer_{number}": features.draw_grid(array) for number, array in arrays.items()}
    pictures["attention"] = features.draw_overlay(image, attention)
    for name, picture in pictures.items():
        log_picture(loggers, f"features/{name}", picture, step)
