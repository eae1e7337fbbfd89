"""The real training, run for a few batches with a clock: module, Trainer, optimizer and averaged weights."""

from __future__ import annotations

import itertools
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy

from ...data.batch import Batch
from ...system.text import first_line
from ...training.contracts import DetectionData, detection_module
from ...training.ema import ExponentialMovingAverage
from ...training.module import YOLOv5
from ...training.optimizer import batches_per_step
from .plan import Form, StepTime

_MOST_ACCUMULATED = 2
"""Batches of an optimizer step, at most: enough to give the optimizer about its part of the time."""
_ENDLESS = 1_000_000


class StepClock(Callback):
    """Notes the end of each batch, and stops the training after its time.

    On CUDA an event marks the end, so that the host never waits; elsewhere the host's clock does.

    Args:
        seconds: time limit, after the warm-up.
        warm_up: batches before the first that is timed; they compile.
        burst: batches that are timed together, 1 or more. At least two bursts are timed.

    Attributes:
        burst_ms: duration of each burst in ms a batch, once the training has ended.
        loss: sum of the loss's parts at the end of the warm-up.
        peak_bytes: largest memory of tensors during the training, on CUDA.
    """

    def __init__(self, seconds: float, warm_up: int, burst: int) -> None:
        self.seconds, self.warm_up, self.burst = seconds, warm_up, burst
        self.burst_ms: list[float] = []
        self.loss = torch.tensor(torch.nan)
        self.peak_bytes: int | None = None
        self._marks: list[Any] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
            self._start_bytes = torch.cuda.memory_allocated(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        timed = batch_idx + 1 - self.warm_up
        if timed == 0:
            self._began_s = time.perf_counter()
            module = detection_module(pl_module)
            if module and module.running_losses:
                self.loss = torch.stack([*module.running_losses.values()]).sum()
        if timed < 0 or timed % self.burst:
            return
        if pl_module.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())
        if len(self._marks) > 2 and time.perf_counter() - self._began_s >= self.seconds:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pairs = itertools.pairwise(self._marks)
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
            self.peak_bytes = torch.cuda.max_memory_allocated(pl_module.device) - self._start_bytes
            self.burst_ms = [before.elapsed_time(after) / self.burst for before, after in pairs]
        else:
            self.burst_ms = [1000 * (after - before) / self.burst for before, after in pairs]


class _Data(LightningDataModule):
    """Batches on the device of the training, with the facts that the module asks its data module for."""

    copies_beside = True
    stride = 32

    def __init__(self, like: DetectionData, batch_size: int, batches: Iterable[Batch]) -> None:
        super().__init__()
        self.image_size, self.batch_size = like.image_size, batch_size
        self.class_names, self.category_ids = like.class_names, like.category_ids
        self.class_counts = [1] * len(like.class_names)  # a loss with weights for its classes needs some
        self.labels_per_image = getattr(like, "labels_per_image", 0.0)
        self._batches = batches

    def train_dataloader(self) -> _Data:
        return self

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def __len__(self) -> int:  # keeps Lightning from fetching a batch ahead
        return _ENDLESS


class ShortTraining:
    """Trains a copy of the user's module, from random weights, for a few batches at a time.

    The module is not changed and not built. A batch may have fewer images than the user's.
    """

    def __init__(
        self,
        module: YOLOv5,
        data: DetectionData,
        batch_size: int,
        device: torch.device,
        ema: ExponentialMovingAverage,
        build: Callable[..., YOLOv5] = YOLOv5,
    ) -> None:
        self.module, self.data, self.batch_size, self.device, self.ema = module, data, batch_size, device, ema
        self._build = build
        asked = batches_per_step(data.batch_size, module.optimizer_config.nominal_batch_size)
        self.accumulate = min(_MOST_ACCUMULATED, asked)
        self._copies: dict[Any, YOLOv5] = {}

    def time_step(self, form: Form, batch: Batch, seconds: float) -> StepTime:
        """Time the step on one batch, over and over; a form that fails gives the reason."""
        clock = StepClock(seconds, warm_up=2 * self.accumulate, burst=self.accumulate)
        result = StepTime(form, len(batch.images))
        try:
            self.train(form, itertools.repeat(batch), clock)
        except RuntimeError as error:  # out of memory, or an operation that a precision does not have
            self._copies.pop(form.compile, None)
            return replace(result, failure=first_line(error))
        return replace(
            result,
            median_ms=statistics.median(clock.burst_ms),
            repetitions=len(clock.burst_ms) * self.accumulate,
            loss=float(clock.loss),
            peak_bytes=clock.peak_bytes,
        )

    def train(self, form: Form, batches: Iterable[Batch], clock: StepClock) -> None:
        """Train on batches until the clock stops it."""
        kind = self.device.type
        cuda = [self.device] if kind == "cuda" else []
        with torch.random.fork_rng(cuda), _quiet():
            torch.manual_seed(0)  # all forms begin with the same weights
            trainer = Trainer(
                accelerator="gpu" if kind == "cuda" else kind,
                devices=1,
                strategy=SingleDeviceStrategy(self.device),
                precision=form.precision,
                max_epochs=_ENDLESS,
                limit_val_batches=0,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                callbacks=[ExponentialMovingAverage(self.ema.decay, self.ema.ramp_updates), clock],
            )
            trainer.fit(self._copy(form), datamodule=_Data(self.data, self.batch_size, batches))
        if kind == "cuda":
            torch.cuda.empty_cache()

    def _copy(self, form: Form) -> YOLOv5:
        """Build the user's module with another form of the step, or change its precision and memory order."""
        like = self.module
        if form.compile not in self._copies:
            optimizer = replace(
                like.optimizer_config,
                nominal_batch_size=self.accumulate * self.batch_size,
                learning_rate=1e-6,  # the weights, and with them the loss, hardly move
                warmup_epochs=0.0,
                schedule_epochs=None,
            )
            self._copies[form.compile] = self._build(
                architecture=like.architecture,
                compile=form.compile,
                channels_last=form.channels_last,
                optimizer=optimizer,
                loss=like.loss_config,
                anchor_free_loss=like.anchor_free_loss_config,
                augmentation=like.augmentation_config,
            )
        copy = self._copies[form.compile]
        copy.augmentation.recent.reset()  # all forms begin with the same mosaics
        if copy.channels_last != form.channels_last:
            copy.channels_last = form.channels_last
            order = torch.channels_last if form.channels_last else torch.contiguous_format
            copy.network.to(memory_format=order)
        return copy


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Hide what the module and the Trainer say of a training, because it is a measurement."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
