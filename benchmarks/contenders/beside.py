"""The speed of a training beside busy programs, which a callback starts and ends with each epoch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any, ClassVar, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from yolo_lightning.performance.busy_cores import CoreWatch
from yolo_lightning.performance.stalls import StallMonitor


class Setting(NamedTuple):
    """What an epoch is trained beside."""

    busy: int  # programs that each keep a core busy
    watches: bool = (
        True  # whether threads may sleep while they wait; if not, the training is as it was before
    )


class BesideOthers(Callback):
    """Trains an epoch in each setting, after one to warm up.

    Attributes:
        settings: of the epochs after the first.
        settle_s: time of an epoch that is not measured, in which the training notices the change.
        speeds: images a second of each of these epochs.
        lines: what the training said of busy cores.
    """

    settings: ClassVar[list[Setting]] = []
    settle_s = 3.0
    speeds: ClassVar[list[float]] = []
    lines: ClassVar[list[str]] = []
    _look = CoreWatch.look

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._programs: list[int] = []
        found = [callback for callback in trainer.callbacks if isinstance(callback, StallMonitor)]  # type: ignore[attr-defined]
        self._monitor = found[0]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep_line()
        setting = Setting(0)
        if trainer.current_epoch:
            setting = self.settings[trainer.current_epoch - 1]
        CoreWatch.look = BesideOthers._look if setting.watches else _spin  # type: ignore[method-assign]
        self._programs = [_start_busy() for _ in range(setting.busy)]
        self._begin_s, self._mark_s, self._images = time.perf_counter(), 0.0, 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        if self._mark_s:
            self._images += len(batch.images)
        elif now - self._begin_s >= self.settle_s:
            self._mark_s = now
        if trainer.is_last_batch:
            self._stop()
            if trainer.current_epoch:
                self.speeds.append(self._images / (now - self._mark_s))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep_line()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        for program in self._programs:
            os.kill(program, signal.SIGKILL)
        self._programs = []

    def _keep_line(self) -> None:
        if self._monitor._told and self._monitor._told[0] == "cores" and self._monitor._line:
            self.lines.append(self._monitor._line)


def _spin(watch: CoreWatch) -> None:
    watch.sleeping.stop()


def _start_busy() -> int:
    """Start a program that is no child of this one, in a session of its own; its number."""
    command = f"'{sys.executable}' -c 'while True: pass' > /dev/null 2>&1 & echo $!"
    done = subprocess.run(
        ["sh", "-c", command], start_new_session=True, capture_output=True, text=True, check=True
    )
    return int(done.stdout)
