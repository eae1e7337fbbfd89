"""Pictures of a run in TensorBoard and in its directory: labels, augmented images, predictions, mistakes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ...data.batch import Batch
from ...data.loading.ordered import data_that_tells
from ...errors import InputError
from ...system.background import BackgroundQueue, Pace
from ...system.files import write_whole
from ...training.contracts import TrainsDetections, detection_data
from ..pictures import (
    EvaluatedImage,
    ImageView,
    Pixels,
    WorstMistakes,
    cut_view,
    draw_augmented,
    draw_label_statistics,
    draw_predictions,
    draw_worst,
    encode,
    find_mistakes,
    label_statistics,
    split_batch,
)
from .writer import log_encoded, never_fatal, step_of, writer_of

FOLDER = "pictures"
"""Folder in the run directory, and prefix of the tags in TensorBoard."""

_SHARE = 0.005
"""Share of one core's time that panels may take."""

_never_fatal = never_fatal("pictures cannot be made")


class Pictures(Callback):
    """Draws the labels, the images as the network sees them, its predictions, and its worst errors.

    ``pictures/labels`` (once), ``pictures/augmented``, ``pictures/predictions`` and ``pictures/worst`` are
    logged to TensorBoard, and the newest of each is a file in ``directory/pictures``: ``labels.png``,
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

    Raises:
        InputError: a number is not positive.
    """

    def __init__(
        self, directory: str | Path, count: int = 8, every: int = 1, queue: BackgroundQueue | None = None
    ) -> None:
        for name, value in (("pictures", count), ("pictures_every", every)):
            if value < 1:
                raise InputError(f"dashboard.{name} is {value}; pictures need 1 or more")
        self.directory = Path(directory)
        self.count = count
        self.every = every
        self.queue = queue or BackgroundQueue()
        self.is_broken = False
        """An error has ended the pictures."""
        self._pace = Pace(_SHARE)
        self._augmented: tuple[int, Tensor, Tensor, Tensor] | None = None
        self._drawn_epoch: int | None = None
        """Epoch of the newest pictures of a validation."""
        self._worst: WorstMistakes | None = None
        """Worst mistakes of the current validation; None if it is not drawn."""
        self._shown: list[tuple[EvaluatedImage, ImageView]] = []

    @_never_fatal
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the labels, unless a resumed run has them."""
        index = _index(trainer, "train")
        if index is None or (step_of(trainer) > 0 and self._path("labels", ".png").exists()):
            return
        data = detection_data(trainer)
        image_size = data.image_size if data else None
        arrays = (index.classes, index.boxes, index.offsets, index.sizes, index.trainable)
        title = f"{index.split} split" + (f", at {image_size} px" if image_size else "")

        def draw() -> Pixels:
            statistics = label_statistics(*arrays, len(index.class_names), image_size)
            return draw_label_statistics(statistics, index.class_names, title)

        path, writer = self._path("labels", ".png"), writer_of(trainer)
        self.queue.submit(_publish, draw, path, ".png", writer, step_of(trainer))

    # -- augmented images ---------------------------------------------------------------------------

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
        counts = mask[: self.count].sum(dim=1)  # labels come first
        self._augmented = step_of(trainer), pixels, targets[: self.count].detach().clone(), counts

    @_never_fatal
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._augmented is None:
            return
        step, pixels, targets, counts = self._augmented
        self._augmented = None
        images = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()  # (n, S, S, 3)
        table = targets.float().cpu().numpy()
        names = cast(TrainsDetections, pl_module).label_names
        draw = functools.partial(draw_augmented, images, table, counts.tolist(), names)
        self._submit(trainer, "augmented", step, draw)

    # -- predictions and worst errors ---------------------------------------------------------------

    @_never_fatal
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._worst, self._shown = None, []
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        drawn = self._drawn_epoch
        is_next = drawn is None or (trainer.current_epoch - drawn >= self.every and self._pace.is_due())
        if is_next or _is_last_validated(trainer):
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
            self._worst.add(image, find_mistakes(image.detections, image.truth))
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
        step, names = step_of(trainer), cast(TrainsDetections, pl_module).label_names
        predictions = functools.partial(
            draw_predictions,
            [view for _, view in shown],
            [image.detections for image, _ in shown],
            [image.truth for image, _ in shown],
            [_image_name(trainer, image.position, image.image_id) for image, _ in shown],
            names,
        )
        self._submit(trainer, "predictions", step, predictions)
        if mistakes := worst.take(self.count):
            captions = [_image_name(trainer, m.position, m.image_id) for m in mistakes]
            draw = functools.partial(draw_worst, mistakes, captions, names)
            self._submit(trainer, "worst", step, draw)
        else:  # or old mistakes would stand beside new predictions
            self.queue.submit(self._path("worst", ".jpg").unlink, missing_ok=True)

    # -- writing ------------------------------------------------------------------------------------

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the last pictures, because the logger is closed next."""
        self.queue.drain()

    def _path(self, name: str, suffix: str) -> Path:
        return self.directory / FOLDER / f"{name}{suffix}"

    def _submit(self, trainer: Trainer, name: str, step: int, draw: Callable[[], Pixels]) -> None:
        path, writer = self._path(name, ".jpg"), writer_of(trainer)
        self.queue.submit(self._pace.run, _publish, draw, path, ".jpg", writer, step)


def _publish(
    draw: Callable[[], Pixels],
    path: Path,
    suffix: Literal[".jpg", ".png"],
    writer: SummaryWriter | None,
    step: int,
) -> None:
    """Draw a picture, log it, and write it to its file."""
    image = draw()
    contents = encode(image, suffix)
    if writer is not None:
        log_encoded(writer, f"{FOLDER}/{path.stem}", contents, image.shape, step)
    write_whole(path, contents)


def _is_last_validated(trainer: Trainer) -> bool:
    """Tell if no later epoch is going to be validated."""
    every = trainer.check_val_every_n_epoch or 1
    return 0 < (trainer.max_epochs or -1) < trainer.current_epoch + 1 + every


def _index(trainer: Trainer, split: str) -> Any:
    """Index of a split; None without our data module."""
    data = data_that_tells(trainer)
    return data and data.indices.get(split)


def _image_name(trainer: Trainer, position: int, image_id: int) -> str:
    index = _index(trainer, "val")
    return f"image {image_id}" if index is None else str(index.path(position).name)
