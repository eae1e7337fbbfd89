"""How the processes of a run that were started side by side meet before anything costs time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from ..data.module import PATHS
from ..errors import InputError
from ..model.network import build_network
from ..system.environment import PACKAGES, git_commit
from .ddp import is_on_gpu, processes_here
from .environment import Environment, started_by_hand
from .facts import Facts, evaluation_bytes, gather_facts, option_values
from .joining import join
from .rendezvous import Rendezvous, alone

_BYTES_A_PARAMETER = 12
"""Of a checkpoint: weights, their average and momentum, float32 each."""
_CHECKPOINTS = 4
"""In the run directory at most: best, last, the one before it, and the one that is being written."""


def meet(config: Any) -> Rendezvous:
    """Meet the other processes of the run; those that Lightning starts are no concern of this.

    Args:
        config: the options of a subcommand.

    Raises:
        InputError: the first process cannot be reached, or some do not come.
    """
    environment = _environment(config)
    return join(environment, config.preflight_seconds) if environment else alone()


def _environment(config: Any) -> Environment | None:
    """Who started this process beside others; asked in the order in which Lightning asks."""
    trainer = config.trainer
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    devices = processes_here(trainer)
    if SLURMEnvironment.detect():
        tasks, processes = int(os.environ["SLURM_NTASKS"]), devices * int(trainer.num_nodes)
        if tasks == processes:
            if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:  # Lightning cannot do without
                raise InputError(
                    f"Slurm was asked for {tasks} tasks, but not how many of them a node has; give "
                    "--ntasks-per-node, not --ntasks"
                )
            return SLURMEnvironment()
        if tasks > 1 and "SLURM_STEP_ID" in os.environ:  # else srun has not started this, and all is well
            raise InputError(
                f"Slurm started {tasks} tasks, but trainer.devices {trainer.devices} on trainer.num_nodes "
                f"{trainer.num_nodes} are {processes} processes; give --trainer.devices the tasks of a node "
                "(--ntasks-per-node) and --trainer.num_nodes the nodes"
            )
    return started_by_hand(os.environ, devices)


def _shared_memory_bytes(config: Any) -> int:
    """What this host needs in /dev/shm; its first process reckons for all of them."""
    environment, data = _environment(config), config.data
    if environment is None or environment.local_rank():
        return 0
    processes, on_gpu = processes_here(config.trainer), is_on_gpu(config.trainer.accelerator)
    return evaluation_bytes(data.image_size, data.batch_size, data.num_workers, processes, on_gpu)


def facts_of(config: Any, run_directory: Path, is_training: bool, step: int = 0) -> Facts:
    """What has to be alike on all ranks, and what each needs.

    Args:
        config: the options of a subcommand, resolved.
        run_directory: of the run.
        is_training: whether it is ``fit``.
        step: at which the checkpoint was saved that is resumed, if there is one.
    """
    names = ("root", *PATHS)
    data = {f"data.{name}": Path(config.data[name]) for name in names if config.data[name]}
    run_bytes = 0
    if is_training:
        with torch.device("meta"):
            network = build_network(config.model.architecture, config.model.num_classes)
        checkpoint_bytes = _BYTES_A_PARAMETER * sum(p.numel() for p in network.parameters())
        run_bytes = _CHECKPOINTS * checkpoint_bytes
    options = option_values(config.as_dict(), leave_out=("runs_dir", *data))
    return gather_facts(
        packages=PACKAGES,
        commit=git_commit(),
        data=data,
        run_directory=run_directory,
        run_bytes=run_bytes,
        shared_memory_bytes=_shared_memory_bytes(config),
        options=options,
        checkpoint=(Path(config.ckpt_path), step) if config.ckpt_path else None,
    )
