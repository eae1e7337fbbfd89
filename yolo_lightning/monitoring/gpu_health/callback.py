"""The callback that watches the GPUs of a run: curves, warnings, and a table at the end."""

from __future__ import annotations

import contextlib
import json
import socket
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import distributed

from ...system.files import write_whole
from .nvml import is_nvidia
from .sampler import PERIOD_S, GpuSampler
from .summary import scalars_of_ranks, table

FILE = "gpu_health.json"


class GpuHealth(Callback):
    """Watches the GPU of each rank through NVML, on a thread beside the training.

    Logs once an epoch, if the GPU reports them, ``gpu/utilisation`` (0..1), ``gpu/memory_used_mb`` (10^6
    bytes, of all processes; the largest), ``gpu/temperature_c`` (the largest), ``gpu/power_w``,
    ``gpu/sm_clock_mhz``, ``gpu/memory_clock_mhz``, ``gpu/pcie_rx_mb_s`` and ``gpu/pcie_tx_mb_s`` (into
    and out of the GPU, 10^6 bytes a second), ``gpu/throttled_fraction`` (0..1) and
    ``gpu/throttle_lost_s`` (an estimate, see ``ThrottleMeter``). ``scalars_of_ranks`` combines the ranks.

    Each rank prints a line for each fault of its GPU: throttling, a temperature near its limit,
    uncorrected memory errors, critical errors of the driver, a lost GPU. Training ends with a table, and
    rank zero writes ``gpu_health.json``: its own GPU until the end, the others until the end of the last
    epoch. Without an NVIDIA GPU, or without NVML, one line says so.

    Args:
        directory: where ``gpu_health.json`` goes.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._sampler: GpuSampler | None = None
        self._reports: list[dict[str, Any]] = []
        """Reports of all ranks, as of the end of the last epoch."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not is_nvidia(pl_module.device):  # the same on all ranks: they train on one kind of device
            pl_module.print("GPU health: no NVIDIA GPU in use, nothing to watch")
            return
        self._reports = []
        say = pl_module.print if trainer.is_global_zero else partial(print, flush=True)  # above a live bar
        where = f", rank {trainer.global_rank} on {socket.gethostname()}" if trainer.world_size > 1 else ""
        self._sampler = GpuSampler(pl_module.device, say, where, says_general=trainer.local_rank == 0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._sampler is None:
            return
        own = _report(self._sampler, trainer) | {"scalars": self._sampler.take().scalars()}
        self._reports = [own] * trainer.world_size
        if trainer.world_size > 1:
            distributed.all_gather_object(self._reports, own)
        values = scalars_of_ranks([report.pop("scalars") for report in self._reports])
        # All ranks have the same values, so no rank waits for another: rank_zero_only.
        pl_module.log_dict(values, sync_dist=True, rank_zero_only=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module, with_table=True)

    def _finish(self, trainer: Trainer, pl_module: LightningModule, with_table: bool) -> None:
        """Stop and report, without asking other ranks, which may be gone."""
        sampler = self._sampler
        self.teardown(trainer, pl_module, "fit")
        if sampler is None or not trainer.is_global_zero:
            return
        reports = [_report(sampler, trainer), *self._reports[1:]]
        if with_table and (lines := table(reports)):
            pl_module.print("\n".join(lines))
        devices = [report for report in reports if report.keys() > {"rank", "host"}]
        if devices:
            path = self.directory / FILE
            try:
                write_whole(path, json.dumps({"period_seconds": PERIOD_S, "devices": devices}, indent=2))
            except OSError as error:
                warnings.warn(f"{path} could not be written: {error}", stacklevel=2)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        was_stopped = isinstance(exception, KeyboardInterrupt | SystemExit)  # by the user, not by an error
        with contextlib.suppress(Exception):  # an error here would hide the one that ends the run
            self._finish(trainer, pl_module, with_table=was_stopped)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._sampler is not None:
            self._sampler.stop()
            self._sampler = None


def _report(sampler: GpuSampler, trainer: Trainer) -> dict[str, Any]:
    return {"rank": trainer.global_rank, "host": socket.gethostname(), **sampler.report()}
