"""Launch: the rank of this process, the number of ranks, and the address of rank zero, from the launcher."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from ..errors import InputError
from .ddp import processes_here


@dataclass(frozen=True)
class Launch:
    """This process among those of the run."""

    rank: int
    world_size: int
    local_rank: int
    address: str
    """Name or IP address of the host of rank zero."""
    port: int
    """TCP port there."""
    origin: str = "MASTER_ADDR"
    """Origin of the address."""
    remedy: str = "set MASTER_ADDR to a name or an IP address of rank zero's host that all know"
    """Remedy for a wrong address."""


def find_launch(config: Any) -> Launch | None:
    """Find out who started this process beside others; asked in the order in which Lightning asks.

    Args:
        config: the options of a subcommand.

    Returns:
        None for a single process, and where Lightning starts the others itself.

    Raises:
        InputError: The launcher started another number of processes than the options say.
    """
    origin, remedy = address_origin(os.environ)  # before main_address, which sets MASTER_ADDR
    trainer = config.trainer
    if TorchElasticEnvironment.detect():
        return _launched_by(TorchElasticEnvironment(), origin, remedy)
    devices = processes_here(trainer)
    if SLURMEnvironment.detect():
        tasks, processes = int(os.environ["SLURM_NTASKS"]), devices * int(trainer.num_nodes)
        if tasks == processes:
            if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:  # Lightning cannot do without
                raise InputError(
                    f"Slurm was asked for {tasks} tasks, but not how many of them a node has; give "
                    "--ntasks-per-node, not --ntasks"
                )
            return _launched_by(SLURMEnvironment(), origin, remedy)
        if tasks > 1 and "SLURM_STEP_ID" in os.environ:  # else srun has not started this process
            raise InputError(
                f"Slurm started {tasks} tasks, but trainer.devices {trainer.devices} on trainer.num_nodes "
                f"{trainer.num_nodes} are {processes} processes; give --trainer.devices the tasks of a node "
                "(--ntasks-per-node) and --trainer.num_nodes the nodes"
            )
    return launched_by_hand(os.environ, devices)


def _launched_by(environment: ClusterEnvironment, origin: str, remedy: str) -> Launch:
    return Launch(
        environment.global_rank(),
        environment.world_size(),
        environment.local_rank(),
        environment.main_address,
        environment.main_port,
        origin,
        remedy,
    )


def launched_by_hand(variables: Mapping[str, str], devices: int) -> Launch | None:
    """Read what somebody set who started each process by hand: ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``.

    Processes that Lightning starts have no ``RANK``. Lightning computes a rank as ``NODE_RANK`` x devices +
    ``LOCAL_RANK`` and ignores ``RANK``, so both must agree.

    Args:
        variables: ``os.environ``.
        devices: processes of each node, as ``trainer.devices``.

    Returns:
        None where the variables are not set, or there is one process only.

    Raises:
        InputError: They contradict each other, or one is missing or no number.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    if not all(variables.get(name) for name in names) or variables["WORLD_SIZE"] == "1":
        return None
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not variables.get(name):
            raise InputError(f"{name} is not set beside RANK and WORLD_SIZE; give all processes the same")
    node_name = "NODE_RANK" if variables.get("NODE_RANK") else "GROUP_RANK"
    rank, local, world = (_number(variables, name) for name in names)
    node = _number(variables, node_name) if variables.get(node_name) else 0
    if rank != node * devices + local:
        raise InputError(
            f"RANK is {rank}, but node {node} x {devices} devices + LOCAL_RANK {local} is "
            f"{node * devices + local}; set NODE_RANK, LOCAL_RANK and --trainer.devices to fit"
        )
    if not 0 <= rank < world:
        raise InputError(f"RANK is {rank} and WORLD_SIZE {world}; ranks are counted from 0 to {world - 1}")
    return Launch(rank, world, local, variables["MASTER_ADDR"], _number(variables, "MASTER_PORT"))


def _number(variables: Mapping[str, str], name: str) -> int:
    try:
        return int(variables[name])
    except ValueError:
        raise InputError(f"{name} is '{variables[name]}'; set it to a whole number") from None


def address_origin(variables: Mapping[str, str]) -> tuple[str, str]:
    """Name the source of rank zero's address, and what to do when it is wrong."""
    if variables.get("TORCHELASTIC_RUN_ID"):
        return "MASTER_ADDR, from torchrun", "give the first node's torchrun --local-addr with its IP address"
    if variables.get("MASTER_ADDR"):
        return Launch.origin, Launch.remedy
    for name in ("SLURM_NODELIST", "SLURM_JOB_NODELIST"):
        if variables.get(name):
            return f"the first name of {name}", "set MASTER_ADDR to the IP address of that node"
    return "a default", "set MASTER_ADDR to the address of rank zero's host"
