"""Whether the GPUs of a run are well: curves, warnings, and a table at the end."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import distributed

from ...errors import InputError
from ...system.files import write_whole
from .faults import Kind
from .identity import GpuIdentity, identify
from .nvml import open_gpu
from .sampler import GpuSampler
from .summary import scalars_of_ranks, table

FILE = "gpu_health.json"


class GpuHealth(Callback):
    """Watches the GPU that each rank trains on, through NVML and on a thread beside the training.

    Logged once an epoch are, of those that the GPU tells, ``gpu/utilisation`` (0..1),
    ``gpu/memory_used_mb`` (10^6 bytes, of all processes; the largest), ``gpu/temperature_c`` (the
    largest), ``gpu/power_w``, ``gpu/sm_clock_mhz``, ``gpu/memory_clock_mhz``, ``gpu/pcie_rx_mb_s`` and
    ``gpu/pcie_tx_mb_s`` (into and out of the GPU, 10^6 bytes a second), ``gpu/throttled_fraction``
    (0..1) and ``gpu/throttle_lost_s`` (an estimate, see ``ThrottleMeter``). How those of several ranks
    are put together says ``scalars_of_ranks``.

    A line is printed when clocks are lowered by throttling, when the temperature comes near its limit,
    for uncorrected memory errors, critical errors of the driver and a lost GPU; by the rank whose GPU
    it is, once for as long as it lasts. Training ends with a table, and with ``gpu_health.json`` by
    rank zero: of its own GPU up to the end, of the others up to the end of the last epoch. Without an
    NVIDIA GPU, or without NVML, one line says so and nothing else happens.

    Args:
        directory: where ``gpu_health.json`` goes; None writes none.
        period_s: seconds between two looks at the GPU.
        repeat_minutes: between two lines about the same, when it has ended and come back.
        nvml: in the place of the module ``pynvml``.
        find: tells which GPU a torch device is, None for a device that NVML does not know.
        clock: of the looks, in s.

    Raises:
        InputError: a number is not above zero.
    """

    def __init__(
        self,
        directory: str | Path | None = None,
        period_s: float = 1.0,
        repeat_minutes: float = 30.0,
        nvml: Any = None,
        find: Callable[[torch.device], GpuIdentity | None] = identify,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (("period_s", period_s), ("repeat_minutes", repeat_minutes)):
            if not value > 0:
                raise InputError(f"{name} of GpuHealth is {value}; give a number above 0")
        self.directory = None if directory is None else Path(directory)
        self.period_s = period_s
        self.repeat_minutes = repeat_minutes
        self._nvml = nvml
        self._find = find
        self._clock = clock
        self._sampler: GpuSampler | None = None
        self._reports: list[dict[str, Any]] = []
        """Of all ranks, as of the end of the last epoch."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        identity = self._find(pl_module.device)
        if identity is None:  # then on no rank: they all train on the same kind of device
            pl_module.print("GPU health: no NVIDIA GPU in use, nothing to watch")
            return
        several = trainer.world_size > 1
        unsaid: set[Kind] = set()
        if trainer.local_rank > 0:  # alike for all ranks of a machine
            unsaid |= {"permission", "nvml"}
        if not trainer.is_global_zero:  # alike for all
            unsaid |= {"unsupported"}
        self._reports = []
        self._sampler = GpuSampler(
            partial(open_gpu, identity, self._nvml),
            where=f", rank {trainer.global_rank} on {socket.gethostname()}" if several else "",
            period_s=self.period_s,
            repeat_s=60 * self.repeat_minutes,
            clock=self._clock,
            unsaid=unsaid,
        )
        self._sampler.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._sampler is not None and self._sampler.has_messages:
            self._print_messages(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._sampler is None:
            return
        self._print_messages(trainer, pl_module)
        own = self._report(trainer) | {"scalars": self._sampler.take().scalars()}
        self._reports = _gather(own)
        values = scalars_of_ranks([report.pop("scalars") for report in self._reports])
        # Every rank has them all by now: no rank waits for another one again.
        pl_module.log_dict(values, sync_dist=True, rank_zero_only=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module, with_table=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        was_stopped = isinstance(exception, KeyboardInterrupt | SystemExit)  # from outside, not failed
        with contextlib.suppress(Exception):  # or it would hide the one that ends the run
            self._finish(trainer, pl_module, with_table=was_stopped)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._sampler is not None:
            self._sampler.stop()
            self._sampler = None

    def _finish(self, trainer: Trainer, pl_module: LightningModule, with_table: bool) -> None:
        """Stop, and tell what there is to tell; asks nothing of other ranks, which may be gone."""
        if self._sampler is None:
            return
        self._sampler.stop()
        self._print_messages(trainer, pl_module)
        own = self._report(trainer)
        self._sampler = None
        if not trainer.is_global_zero:
            return
        reports = [own, *self._reports[1:]]
        if with_table and (lines := table(reports)):
            pl_module.print("\n".join(lines))
        self._write([report for report in reports if report.keys() > {"rank", "host"}])

    def _report(self, trainer: Trainer) -> dict[str, Any]:
        seen = self._sampler.report() if self._sampler else {}
        return {"rank": trainer.global_rank, "host": socket.gethostname(), **seen}

    def _print_messages(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for message in self._sampler.take_messages() if self._sampler else ():
            if trainer.is_global_zero:
                pl_module.print(message.line)  # around a live bar
            else:
                print(message.line, flush=True)

    def _write(self, devices: list[dict[str, Any]]) -> None:
        if self.directory is None or not devices:
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            content = {"period_seconds": self.period_s, "devices": devices}
            write_whole(self.directory / FILE, json.dumps(content, indent=2))
        except OSError as error:
            warnings.warn(f"{self.directory / FILE} could not be written: {error}", stacklevel=2)


def _gather(own: dict[str, Any]) -> list[dict[str, Any]]:
    """What each rank gives, in order, on all ranks; every rank has to call it."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [own]
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, own)
    return gathered
