"""Choice of what torch.compile compiles: a rule, and the sentence that the log gets."""

from __future__ import annotations

import functools
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from ..data.cache_folder import disk_folder
from ..errors import InputError
from ..system.text import first_line

CompileOption = (
    Literal[
        "auto", "augmentation", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"
    ]
    | bool
)
CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")


@dataclass(frozen=True)
class Compilation:
    """Decision on what is compiled, and its reason."""

    mode: str | None  # mode of torch.compile for the network and the loss; None leaves them eager
    augmentation: bool  # true if the augmentation is compiled
    reason: str  # sentence for the log
    records_graphs: bool = False  # true if the step is captured in CUDA graphs, see ``cuda_graphs.py``

    @property
    def announcement(self) -> str | None:
        """Line for the user before the first batch, which compiles; None if nothing is compiled."""
        if self.mode is None and not self.augmentation:
            return None
        parts, long = ["augmentation"] if self.augmentation else [], "up to a minute"
        if self.mode:
            parts, long = [*parts, "network", "loss"], "minutes"
        what = " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else f"the {parts[0]}"
        return f"compiling {what}: the first batch takes longer ({long}, where nothing is cached)"


def decide_compilation(option: CompileOption, device_type: str, precision: str) -> Compilation:
    """Turn ``model.compile`` into a decision.

    ``auto`` compiles everything on CUDA, and nothing on a CPU. There, in channels-last order, oneDNN's eager
    kernels are as fast as Inductor's in bf16 and at most 10 % slower in fp32, which does not make up for
    minutes of compiling. OpenCV augments on a CPU, so that the augmentation is never compiled there.

    Args:
        option: ``auto``, a bool, ``augmentation`` (only that), or a mode of torch.compile.
        device_type: ``cpu``, ``cuda`` or ``mps``.
        precision: precision of the Trainer, for the log.

    Raises:
        InputError: this device does not support the mode.
    """
    if option is False:
        return Compilation(None, False, "nothing, because model.compile is false")
    on_cpu = device_type == "cpu"
    if on_cpu and option in ("auto", "augmentation"):
        reason = f"nothing, because on a CPU OpenCV augments, and eager kernels of the network in {precision}"
        return Compilation(None, False, f"{reason} are about as fast without minutes of compiling")
    obstacle = compiler_obstacle(device_type)
    if obstacle and option == "auto":
        return Compilation(None, False, f"nothing, because {obstacle}")
    if obstacle:
        raise InputError(
            f"model.compile {option} cannot work on this machine ({obstacle}); use 'auto' or 'false'"
        )
    if option == "augmentation":
        return Compilation(None, True, "the augmentation only, because model.compile is augmentation")
    # A graph for each size of image and each room for labels; beyond the limit compiling fails.
    torch._dynamo.config.recompile_limit = 64
    mode = option if isinstance(option, str) and option != "auto" else "default"
    what = "network and loss" if on_cpu else "augmentation, network and loss"
    records_graphs = device_type == "cuda" and mode in CUDA_GRAPH_MODES
    return Compilation(mode, not on_cpu, f"{what} for {device_type} in {precision} ({mode})", records_graphs)


@functools.cache
def compiler_obstacle(device_type: str) -> str | None:
    """Find out why torch.compile fails here by compiling one small function; None if it works."""
    if device_type not in {"cpu", "cuda"}:
        return f"torch.compile is not used on {device_type}"

    keep_compiled_code_private()
    try:
        probe = torch.compile(lambda x: x * 2 + 1, fullgraph=True, dynamic=False)
        probe(torch.ones(8, device=device_type))
    except Exception as error:  # toolchains raise errors of many kinds
        return f"torch.compile fails here ({first_line(error)})"
    return None


def keep_compiled_code_private() -> None:
    """Move Inductor's cache to the user's own if its folder is another's, open to others, or a link.

    Torch loads code from ``/tmp/torchinductor_<user>``, whoever made that folder. A folder of the user's own
    choice, ``TORCHINDUCTOR_CACHE_DIR``, is left as it is.
    """
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    usual = Path(default_cache_dir())
    with suppress(OSError):  # a file system without room or rights is torch's to report
        with suppress(FileExistsError):
            usual.mkdir(mode=0o700)
        found = usual.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            private = disk_folder(None) / "torchinductor"
            private.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(private)
