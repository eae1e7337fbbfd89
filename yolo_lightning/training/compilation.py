"""Whether, and how, to compile: decided once, from what the machine can do, and said in a sentence."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError

CompileOption = (
    Literal[
        "auto", "augmentation", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"
    ]
    | bool
)
CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")


@dataclass(frozen=True)
class Compilation:
    """What is compiled, and why."""

    mode: str | None
    """Mode of torch.compile for the network and the loss; None leaves them eager."""
    augmentation: bool
    """Whether the augmentation is compiled."""
    reason: str
    """A sentence for the log."""

    @property
    def announcement(self) -> str | None:
        """What to say before the first batch, which compiles and so takes long; None if nothing does."""
        if self.mode is not None:
            what, long = "augmentation, network and loss", "minutes"
        elif self.augmentation:
            what, long = "the augmentation", "up to a minute"
        else:
            return None
        return f"compiling {what}: the first batch takes longer ({long}, where nothing is cached)"


def decide_compilation(option: CompileOption, device_type: str, precision: str) -> Compilation:
    """Turn ``model.compile`` into a decision.

    ``auto`` compiles everything on CUDA. On a CPU it compiles the augmentation alone: oneDNN's eager
    kernels in channels-last order are as fast as Inductor's in bf16 and 10 % slower in fp32, which
    does not win back the minutes that compiling a network takes there, while the augmentation
    is several times slower when eager.

    Args:
        option: ``auto``, a bool, ``augmentation`` (that alone), or a mode of torch.compile.
        device_type: ``cpu``, ``cuda`` or ``mps``.
        precision: the Trainer's precision, for the log.

    Raises:
        InputError: a mode that cannot be had on this device.
    """
    if option is False:
        return Compilation(None, False, "nothing is compiled: model.compile is false")
    if device_type == "cuda" and option in CUDA_GRAPH_MODES:
        raise InputError(
            f"model.compile {option} records CUDA graphs, which have given wrong gradients together with "
            "gradient accumulation; use 'default' or 'max-autotune-no-cudagraphs'"
        )
    obstacle = compiler_obstacle(device_type)
    if obstacle and option == "auto":
        return Compilation(None, False, f"nothing is compiled: {obstacle}")
    if obstacle:
        raise InputError(
            f"model.compile {option} cannot work on this machine ({obstacle}); use 'auto' or 'false'"
        )
    if option == "augmentation":
        return Compilation(None, True, "the augmentation is compiled, the network is not")
    if option == "auto" and device_type != "cuda":
        return Compilation(
            None,
            device_type == "cpu",
            f"compiling the augmentation only: on {device_type} in {precision} eager network kernels are "
            "about as fast, and compiling takes minutes",
        )
    mode = option if isinstance(option, str) and option != "auto" else "default"
    return Compilation(
        mode, True, f"augmentation, network and loss are compiled for {device_type} in {precision} ({mode})"
    )


@functools.cache
def compiler_obstacle(device_type: str) -> str | None:
    """Why torch.compile cannot work here, found by compiling one small function; None if it can."""
    if device_type not in {"cpu", "cuda"}:
        return f"torch.compile is not used on {device_type}"

    def probe(x: Tensor) -> Tensor:
        return x * 2 + 1

    try:
        compiled = torch.compile(probe, fullgraph=True, dynamic=False)
        compiled(torch.ones(8, device=device_type))
    except Exception as error:  # whatever the toolchain raises: it means "no"
        return f"torch.compile fails here ({type(error).__name__}: {str(error).splitlines()[0][:120]})"
    return None
