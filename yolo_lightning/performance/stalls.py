"""Speed of the training, the stalls that slow it down, and the options to change."""

from __future__ import annotations

import math
import resource
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ..data.batch import Batch
from ..data.loading.ordered import data_that_tells
from ..training.contracts import detection_module
from .bottleneck import LOSS_THRESHOLD, Cause, Measurements, Recompilation, explain_epoch
from .busy_cores import CoreWatch
from .device_clock import DeviceClock, device_clock

_REPEAT_EPOCHS = 10  # epochs after which a line is printed again although its cause is the same


@dataclass
class _Totals:
    """Sums over batches."""

    batches: int = 0
    images: int = 0
    wait_s: float = 0.0
    step_s: float = 0.0

    @property
    def seconds(self) -> float:
        return self.wait_s + self.step_s


class StallMonitor(Callback):
    """Logs the speed of each epoch, and prints a line if it lost more than 5 % of its time.

    It logs ``perf/images_per_second``, ``perf/data_wait_fraction``, ``perf/step_ms``,
    ``perf/memory_peak_mb`` (see :func:`peak_memory_mb`), ``perf/recompiles`` (functions that torch.compile
    compiled again; 0 in the first epoch, which compiles each size and mode) and, on CUDA,
    ``perf/device_idle_fraction``.

    The host's clock times steps and waits, and never waits for the device. A GPU may still have work during
    a wait, so ``data_wait_fraction`` is an upper bound there. ``device_idle_fraction`` is exact: the device's
    own time from the end of a step to the start of the next; NaN without a reading.

    A step lasts from the start of a batch's hooks to their end, a wait from there, or from the start of the
    epoch, to the next batch. Validation is in neither. List this callback last: hooks of later callbacks
    count as waits. The first batch of a run compiles and warms up; it counts only if there is no other. A run
    that resumes within an epoch adds to the figures of the first process.

    While other programs take the cores, threads of operators sleep as they wait for each other, see
    :class:`~yolo_lightning.performance.busy_cores.CoreWatch`.

    The first process prints the line below the row of its epoch. It repeats the line if the cause changes, or
    after ten epochs.
    """

    def __init__(self) -> None:
        self._warm_up, self._epoch, self._restored = _Totals(), _Totals(), _Totals()
        self._device_clock: DeviceClock | None = None
        self._recompiles = RecompilationReader()
        self._cores = CoreWatch()
        self._line: str | None = None
        self._told: tuple[Cause, int] | None = None  # cause of the last line, and its epoch

    @property
    def images_per_second(self) -> float:
        """Images a second of all processes in this epoch so far; 0 before the first batch."""
        totals = self._totals
        return self._world_size * totals.images / totals.seconds if totals.seconds > 0 else 0.0

    @property
    def data_wait_fraction(self) -> float:
        """Part of this epoch so far, 0..1, in which this process waited for batches."""
        totals = self._totals
        return totals.wait_s / totals.seconds if totals.seconds > 0 else 0.0

    @property
    def step_ms(self) -> float:
        """Mean duration of a step in this epoch so far, in ms, without the wait for its batch."""
        totals = self._totals
        return 1000 * totals.step_s / totals.batches if totals.batches else 0.0

    @property
    def _totals(self) -> _Totals:
        return self._epoch if self._epoch.batches else self._warm_up

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._world_size = trainer.world_size
        self._is_warm = False
        self._is_first_epoch = True
        self._line = self._told = None
        self._device_clock = device_clock(pl_module.device)
        self._begin(pl_module)  # a run that resumes within an epoch skips the hook of its start
        if trainer.fit_loop.restarted_mid_epoch:
            self._epoch = self._restored

    def state_dict(self) -> dict[str, Any]:
        return asdict(self._totals)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = _Totals(**state_dict)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_line(pl_module)
        self._begin(pl_module)

    def _begin(self, pl_module: LightningModule) -> None:
        self._warm_up, self._epoch = _Totals(), _Totals()
        self._interrupted = False
        reset_peak_memory(pl_module.device)
        self._cores.begin()
        if self._device_clock and self._is_warm:
            self._device_clock.epoch_started()
        self._mark = perf_counter()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._cores.look()
        now = perf_counter()
        # Around a validation within the epoch, validating and saving would count as a wait.
        self._wait_s = 0.0 if self._interrupted else now - self._mark
        self._interrupted = False
        self._mark = now
        if self._device_clock and self._is_warm:
            self._device_clock.step_started()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if self._device_clock:
            self._device_clock.step_ended()  # the device's time begins after the first batch
        now = perf_counter()
        totals = self._epoch if self._is_warm else self._warm_up
        totals.batches += 1
        totals.images += len(batch.images)
        totals.wait_s += self._wait_s
        totals.step_s += now - self._mark
        module = detection_module(pl_module)
        if not (module and module.waiting):  # else the network has not run and compiled yet
            self._is_warm = True
        self._mark = now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._interrupted = True
        if self._device_clock:
            self._device_clock.interrupt()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        recompilations = self._recompiles.read()
        if self._is_first_epoch:  # each size and each mode is compiled once
            recompilations = []
        self._is_first_epoch = False
        values = {
            "perf/images_per_second": self.images_per_second,
            "perf/data_wait_fraction": self.data_wait_fraction,
            "perf/step_ms": self.step_ms,
        }
        idle = self.data_wait_fraction  # of a CPU, which is busy whenever the host is
        if self._device_clock:
            known = self._device_clock.take().idle_fraction
            # All processes must log the same names, or they hang.
            values["perf/device_idle_fraction"] = math.nan if known is None else known
            idle = known or 0.0  # without a reading from the device nothing is known to be lost
        pl_module.log_dict(values, sync_dist=True)
        most = {
            "perf/memory_peak_mb": peak_memory_mb(pl_module.device),
            "perf/recompiles": float(len(recompilations)),
        }
        pl_module.log_dict(most, sync_dist=True, reduce_fx="max")
        data = data_that_tells(trainer)
        found = explain_epoch(
            Measurements(
                idle_fraction=idle,
                loader_fraction=self.data_wait_fraction,
                seconds=self._totals.seconds,
                recompilations=recompilations,
                # Finding out which cache would fit takes a moment.
                loading=data.loading if data and idle >= LOSS_THRESHOLD else None,
                busy_cores=self._cores.take(),
            )
        )
        epoch = trainer.current_epoch
        if found and (
            self._told is None or self._told[0] != found[0] or epoch - self._told[1] >= _REPEAT_EPOCHS
        ):
            self._told = found[0], epoch
            self._line = found[1]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._cores.sleeping.stop()
        self._print_line(pl_module)

    def _print_line(self, pl_module: LightningModule) -> None:
        if self._line is not None:
            pl_module.print(self._line)  # by the first process, below the row of the epoch, around a live bar
            self._line = None


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new peak of memory on CUDA."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float:
    """Peak of the memory in 10^6 bytes.

    On CUDA that of tensors since :func:`reset_peak_memory`, elsewhere the process's largest resident set.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):  # unlike ru_maxrss, not inherited from the parent process
                return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


class RecompilationReader:
    """Reads torch's records of its last 64 compilations; only those that compile again give a reason."""

    _last: Any = None  # newest record that was read

    def read(self) -> list[Recompilation]:
        """Read the recompilations since the last call, the oldest first."""
        compiler = sys.modules.get("torch._dynamo.utils")
        records: list[Any] = compiler.get_compilation_metrics() if compiler else []
        known = next((i for i, record in enumerate(records) if record is self._last), -1)
        new = records[known + 1 :]
        self._last = records[-1] if records else None
        seconds: defaultdict[str, float] = defaultdict(float)
        for record in new:  # forward and backward passes have a record each, under the same id
            seconds[record.compile_id] += (record.duration_us or 0) / 1e6
        return [
            Recompilation(str(record.co_name), record.recompile_reason, seconds[record.compile_id])
            for record in new
            if record.recompile_reason
        ]
