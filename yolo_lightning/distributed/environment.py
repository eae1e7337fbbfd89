"""Which process of how many this is, and where rank zero is, as the launcher of the run says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ..errors import InputError


class Environment(Protocol):
    """What is needed of a launcher; Lightning's cluster environments have it."""

    @property
    def main_address(self) -> str:
        """Name or IP address of the host of rank zero."""

    @property
    def main_port(self) -> int:
        """TCP port there."""

    def world_size(self) -> int:
        """Processes of the run."""

    def global_rank(self) -> int:
        """Number of this process, from 0."""

    def local_rank(self) -> int:
        """Number of this process on its host, from 0."""

    def node_rank(self) -> int:
        """Number of its host, from 0."""


@dataclass(frozen=True)
class ByHand:
    """Processes that somebody started one by one, each with its number in the environment."""

    main_address: str
    main_port: int
    world: int
    rank: int
    local: int
    node: int

    def world_size(self) -> int:
        """Processes of the run."""
        return self.world

    def global_rank(self) -> int:
        """Number of this process, from 0."""
        return self.rank

    def local_rank(self) -> int:
        """Number of this process on its host, from 0."""
        return self.local

    def node_rank(self) -> int:
        """Number of its host, from 0."""
        return self.node


def started_by_hand(variables: Mapping[str, str], devices: int) -> ByHand | None:
    """The environment of a process that was started with ``RANK`` and ``LOCAL_RANK`` set by hand.

    Those that Lightning starts have no ``RANK``. It reckons a rank as ``NODE_RANK`` x devices +
    ``LOCAL_RANK``, whatever ``RANK`` says, so both must agree.

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
    return ByHand(variables["MASTER_ADDR"], _number(variables, "MASTER_PORT"), world, rank, local, node)


def _number(variables: Mapping[str, str], name: str) -> int:
    try:
        return int(variables[name])
    except ValueError:
        raise InputError(f"{name} is '{variables[name]}'; set it to a whole number") from None


def address_origin(variables: Mapping[str, str]) -> tuple[str, str]:
    """Where the address of rank zero comes from, and what to do when it is wrong.

    Ask before Lightning does: it fills ``MASTER_ADDR`` in.
    """
    if variables.get("TORCHELASTIC_RUN_ID"):
        return "MASTER_ADDR, from torchrun", "give the first node's torchrun --local-addr with its IP address"
    if variables.get("MASTER_ADDR"):
        return "MASTER_ADDR", "set MASTER_ADDR to a name or an IP address of rank zero's host that all know"
    for name in ("SLURM_NODELIST", "SLURM_JOB_NODELIST"):
        if variables.get(name):
            return f"the first name of {name}", "set MASTER_ADDR to the IP address of that node"
    return "a default", "set MASTER_ADDR to the address of rank zero's host"
