"""Data-parallel training: Lightning's DDP, set up in one place for every launcher."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from ..errors import InputError


@dataclass(frozen=True)
class DDPConfig:
    """Exchange of gradients between processes.

    Raises:
        InputError: a value is out of its range.
    """

    compress_gradients: bool = False
    """Send gradients as bfloat16: half the bytes between processes, and 8 instead of 24 bits of each number.
    While batches are accumulated their sum is rounded again with each batch."""
    bucket_mb: float = 25.0
    """MiB of gradients that travel as one message, above 0; larger ones suit a network with high latency."""
    timeout_minutes: float = 10.0
    """Longest wait of a process for the others in one exchange before the run ends, above 0. Compiling on one
    process while the others wait has to fit."""

    def __post_init__(self) -> None:
        for name in ("bucket_mb", "timeout_minutes"):
            if not getattr(self, name) > 0:
                raise InputError(f"ddp.{name} is {getattr(self, name)}; give a number above 0")


class ConfiguredDDP(DDPStrategy):
    """Lightning's DDP with the options of :class:`DDPConfig`.

    Every step uses every parameter, so DDP searches for no unused ones. Gradients are views of the buffers
    that are exchanged, which saves a copy of all of them. A static graph would delay the exchange of the
    first step and save nothing.

    Accumulated batches are exchanged one by one, without ``no_sync``: ``.grad`` always holds the sum over all
    processes, so a checkpoint that rank zero writes between two batches of a step is complete.

    Args:
        config: the options.
        backend: ``nccl`` or ``gloo``.
    """

    def __init__(self, config: DDPConfig, backend: str) -> None:
        super().__init__(
            process_group_backend=backend,
            timeout=timedelta(minutes=config.timeout_minutes),
            find_unused_parameters=False,
            gradient_as_bucket_view=True,
            static_graph=False,
            bucket_cap_mb=config.bucket_mb,
        )
        self.config = config

    def configure_ddp(self) -> None:
        super().configure_ddp()
        # Lightning registers a hook on GPUs only; the option must not be ignored on a CPU.
        if self.config.compress_gradients:
            assert isinstance(self.model, DistributedDataParallel)
            self.model.register_comm_hook(None, bf16_compress_hook)


def build_strategy(trainer: Any, config: DDPConfig) -> Any:
    """Build the strategy of the Trainer from its options as the user gives them.

    Returns:
        A :class:`ConfiguredDDP` for ``ddp``, and for ``auto`` with more than one process; anything else as it
        is.

    Raises:
        InputError: synchronised batch norms are asked for on a CPU, or torchrun started another number of
            processes.
    """
    strategy, accelerator, on_gpu = trainer.strategy, trainer.accelerator, is_on_gpu(trainer.accelerator)
    if trainer.sync_batchnorm and not on_gpu and accelerator in ("auto", "cpu"):
        raise InputError(
            "trainer.sync_batchnorm is true, but torch's synchronised batch norms need GPUs; "
            "set --trainer.sync_batchnorm false"
        )
    if strategy not in ("auto", "ddp"):
        return strategy
    processes = processes_here(trainer) * int(trainer.num_nodes)
    started = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else processes
    if started != processes:  # Lightning would let each process train by itself
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        raise InputError(
            f"torchrun started {started} processes, but trainer.devices {trainer.devices} on "
            f"trainer.num_nodes {trainer.num_nodes} are {processes}; give --trainer.devices {local} and "
            f"--trainer.num_nodes {started // local}"
        )
    if strategy == "auto" and (processes == 1 or accelerator not in ("auto", "gpu", "cuda", "cpu")):
        return strategy
    return ConfiguredDDP(config, "nccl" if on_gpu else "gloo")


def count_devices(devices: Any, available: int) -> int:
    """Count the processes of one node that ``trainer.devices`` means.

    Args:
        devices: ``auto``, -1, a number, a list, or any of them as text (``2``, ``0,1``).
        available: what ``auto`` and -1 stand for.
    """
    if (listed := listed_gpus(devices)) is not None:
        return len(listed)
    return available if str(devices).strip() in ("auto", "-1") else int(devices)


def listed_gpus(devices: Any) -> list[int] | None:
    """Read the positions of the GPUs; None if ``devices`` is a number or ``auto``."""
    if isinstance(devices, str) and "," in devices:
        return [int(part) for part in devices.split(",") if part.strip()]
    return [int(part) for part in devices] if isinstance(devices, (list, tuple)) else None


def refuse_absent_gpus(accelerator: Any, devices: Any) -> None:
    """Refuse GPUs that this machine does not have.

    Raises:
        InputError: ``trainer.devices`` names one, or asks for more than there are.
    """
    if not is_on_gpu(accelerator):
        return
    available = torch.cuda.device_count()
    listed = listed_gpus(devices)
    needed = max(listed, default=-1) + 1 if listed is not None else count_devices(devices, available)
    if needed > available:
        raise InputError(
            f"trainer.devices is {devices}, but this machine shows {available} GPUs, counted from 0; give "
            "others or fewer, or look at CUDA_VISIBLE_DEVICES"
        )


def is_on_gpu(accelerator: Any) -> bool:
    """True if a run with this ``trainer.accelerator`` uses GPUs."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def processes_here(trainer: Any) -> int:
    """Count the processes of the run on this host."""
    return count_devices(trainer.devices, torch.cuda.device_count() if is_on_gpu(trainer.accelerator) else 1)
