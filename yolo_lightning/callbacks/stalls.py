"""How fast training is, and how much of its time the host waits for data."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ..batch import Batch


@dataclass
class _Totals:
    """Sums over batches."""

    batches: int = 0
    images: int = 0
    wait_s: float = 0.0
    step_s: float = 0.0

    def add(self, images: int, wait_s: float, step_s: float) -> None:
        self.batches += 1
        self.images += images
        self.wait_s += wait_s
        self.step_s += step_s

    @property
    def seconds(self) -> float:
        return self.wait_s + self.step_s


class StallMonitor(Callback):
    """Logs ``perf/images_per_second``, ``perf/data_wait_fraction`` and ``perf/step_ms`` each epoch.

    Clocks are the host's and the device is never asked to finish, so nothing slows down. On a GPU
    the host runs ahead of the device: a wait that the device still has work for is counted too,
    which makes ``data_wait_fraction`` an upper bound of the time that the device lacks data.

    A step lasts from the start of a batch's hooks to their end, a wait from there to the start of
    the next batch (in the first batch of an epoch: from the start of the epoch). The hooks of
    callbacks that come later in the Trainer's list fall into the wait, so this one belongs last.
    Validation is in neither. The first batch of a run, which compiles and warms up, is left out
    unless there is no other.
    """

    def __init__(self) -> None:
        self._warm_up = _Totals()
        self._epoch = _Totals()
        self._is_warm = False
        self._interrupted = False
        self._mark = 0.0
        self._wait_s = 0.0
        self._world_size = 1

    @property
    def images_per_second(self) -> float:
        """Images of all processes per second of this epoch so far; 0 before the first batch."""
        totals = self._totals
        return self._world_size * totals.images / totals.seconds if totals.seconds > 0 else 0.0

    @property
    def data_wait_fraction(self) -> float:
        """Part of this epoch so far, 0..1, that this process has waited for batches."""
        totals = self._totals
        return totals.wait_s / totals.seconds if totals.seconds > 0 else 0.0

    @property
    def step_ms(self) -> float:
        """Mean duration of a step of this epoch so far, in ms, without the wait for its data."""
        totals = self._totals
        return 1000 * totals.step_s / totals.batches if totals.batches else 0.0

    @property
    def _totals(self) -> _Totals:
        return self._epoch if self._epoch.batches else self._warm_up

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._world_size = trainer.world_size
        self._is_warm = False
        self._begin()  # a run that resumes within an epoch does not pass through the start of one

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()

    def _begin(self) -> None:
        self._warm_up, self._epoch = _Totals(), _Totals()
        self._interrupted = False
        self._mark = perf_counter()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        now = perf_counter()
        # Around a validation in mid-epoch the wait cannot be told from validating and saving.
        self._wait_s = 0.0 if self._interrupted else now - self._mark
        self._interrupted = False
        self._mark = now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        now = perf_counter()
        totals = self._epoch if self._is_warm else self._warm_up
        totals.add(len(batch.images), self._wait_s, now - self._mark)
        self._is_warm = True
        self._mark = now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._interrupted = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = {
            "perf/images_per_second": self.images_per_second,
            "perf/data_wait_fraction": self.data_wait_fraction,
            "perf/step_ms": self.step_ms,
        }
        pl_module.log_dict(values, sync_dist=True)
