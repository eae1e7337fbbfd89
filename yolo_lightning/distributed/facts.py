"""Facts of one rank: versions, data, devices, free space, options."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..data.annotations.index import DatasetIndex
from ..data.images.choose_cache import MOST_WORKERS
from ..data.module import PATH_OPTIONS
from ..model.network import build_network
from ..system.cores import usable_cores
from ..system.environment import PACKAGES, git_commit, package_version
from .ddp import is_on_gpu, processes_here
from .launch import find_launch
from .time_limit import bounded

FILE_SYSTEM_S = 15.0
"""Longest wait for a file system, in s; a network file system that is gone never answers."""
SHARED_MEMORY = Path("/dev/shm")
_BYTES_A_PARAMETER = 12
"""Bytes of a checkpoint for each parameter: weights, their average and momentum, float32 each."""
_CHECKPOINTS = 4
"""Most checkpoints in a run directory: best, last, the previous last, and one being written."""
_PREFETCH = 2
"""Batches that each worker of torch's loader makes ahead."""
_MARGIN_PX = 64
"""Largest excess of a rectangle of evaluation over the image size: a stride of P6."""


@dataclass
class Facts:
    """Facts of one rank."""

    values: dict[str, dict[str, str]] = field(default_factory=dict)
    """Kind (a key of ``comparison.RULES``) to name to value."""
    problems: list[str] = field(default_factory=list)
    """Problems of this rank, one sentence each."""


def facts_of_run(config: Any, run_directory: Path, is_training: bool, step: int = 0) -> Facts:
    """Gather what has to be alike on all ranks, and what each needs.

    Args:
        config: the options of a subcommand, resolved.
        run_directory: of the run; need not exist yet.
        is_training: True for ``fit``.
        step: of the checkpoint that is resumed.
    """
    data = {f"data.{name}": Path(config.data[name]) for name in PATH_OPTIONS if config.data[name]}
    options = option_values(config.as_dict(), leave_out=("runs_dir", *data))
    values = {**machine_facts(), "option": options}
    paths = dict(data)
    if config.ckpt_path:
        paths["ckpt_path"] = Path(config.ckpt_path)
        size = _size(paths["ckpt_path"])
        values["checkpoint"] = {
            "the checkpoint that is resumed": f"{config.ckpt_path} at step {step} ({size})"
        }
    problems = [
        *(why_invisible(path, option) for option, path in paths.items()),
        why_too_little_room(
            run_directory,
            _checkpoint_bytes(config) if is_training else 0,
            "make room, or choose another place with --runs_dir",
        ),
        why_too_little_room(
            SHARED_MEMORY,
            _shared_memory_bytes(config),
            "mount it larger, or give fewer --data.num_workers or a smaller --data.batch_size",
        ),
    ]
    return Facts(values, [problem for problem in problems if problem])


def machine_facts() -> dict[str, dict[str, str]]:
    """Gather versions and GPUs, by kind and name."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    build = {"torch": str(torch.__version__), "CUDA of torch": str(torch.version.cuda)}
    if gpus and torch.distributed.is_nccl_available():
        build["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    return {
        "package": {name: package_version(name) or "not installed" for name in PACKAGES},
        "build": build,
        "python": {"Python": ".".join(platform.python_version_tuple()[:2])},
        "patch": {"Python": platform.python_version()},
        "commit": {"the commit of yolo-lightning": str(git_commit())},
        "gpus": {"the number of GPUs that a process sees": str(len(gpus))},
        "gpu": {"the GPU": ", ".join(dict.fromkeys(gpus)) or "none"},
    }


def _size(path: Path) -> str:
    """Size of a file that may be gone, on a file system that may not answer."""
    try:
        return f"{bounded(path.stat, FILE_SYSTEM_S).st_size:,} bytes"
    except (OSError, TimeoutError):
        return "missing"


def index_facts(indices: Mapping[str, DatasetIndex]) -> Facts:
    """Gather the data sets as read here.

    Args:
        indices: split to its index.
    """
    digests = {f"the {split} split": index_digest(index) for split, index in indices.items()}
    return Facts({"index": digests})


def index_digest(index: DatasetIndex) -> str:
    """Count the images and labels, and digest all that training sees of an index.

    Paths are relative to the folder that all images share, so that hosts with the same data set in
    different places agree.
    """
    digest = hashlib.sha256(repr((index.split, index.class_names, len(index))).encode())
    digest.update(_relative_paths(index))
    arrays = (
        *(index.category_ids, index.image_ids, index.sizes, index.offsets, index.classes),
        *(index.boxes, index.areas, index.crowd, index.trainable),
    )
    for array in arrays:
        little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
        digest.update(repr((little.dtype.str, little.shape)).encode())
        digest.update(little.tobytes())
    return f"{len(index):,} images, {len(index.boxes):,} labels, digest {digest.hexdigest()[:16]}"


def _relative_paths(index: DatasetIndex) -> bytes:
    """Join the paths, which are sorted, without the folder that they share."""
    if not len(index):
        return b""
    ends = index.path_offsets.tolist()
    whole = index.path_bytes
    folders = [os.path.dirname(path) for path in (whole[: ends[1]], whole[ends[-2] : ends[-1]])]
    cut = len(os.path.commonpath(folders).rstrip(b"/")) + 1
    return b"\0".join(whole[begin + cut : end] for begin, end in pairwise(ends))


def option_values(options: Mapping[str, object], leave_out: Collection[str] = ()) -> dict[str, str]:
    """Flatten nested options to ``dotted.name`` and text.

    Args:
        options: as ``jsonargparse.Namespace.as_dict`` gives them.
        leave_out: names, or beginnings of names up to a dot, that may differ from rank to rank.
    """
    flat: dict[str, str] = {}
    for name, value in options.items():
        if name in leave_out:
            continue
        if isinstance(value, Mapping) and value:
            inner = {rest.removeprefix(f"{name}.") for rest in leave_out if rest.startswith(f"{name}.")}
            flat |= {f"{name}.{key}": text for key, text in option_values(value, inner).items()}
        else:
            flat[name] = repr(value) if not isinstance(value, (str, Path)) else str(value)
    return flat


def why_invisible(path: Path, option: str) -> str | None:
    """Say what is wrong with a folder or file that should be readable, or None."""

    def look() -> str | None:
        if not path.exists():
            return "does not exist"
        if path.is_dir():
            with os.scandir(path) as entries:
                return None if any(entries) else "is empty"
        with path.open("rb") as file:
            file.read(1)
        return None

    try:
        reason = bounded(look, FILE_SYSTEM_S)
    except TimeoutError:
        reason = f"does not answer within {FILE_SYSTEM_S:.0f} s"
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    return f"{path}: {reason} on this host; mount it there or correct --{option}" if reason else None


def why_too_little_room(folder: Path, need: int, remedy: str) -> str | None:
    """Say what is wrong with the free space in a folder that may not exist yet, or None.

    Args:
        folder: where something is going to be written.
        need: in bytes; 0 asks for nothing.
        remedy: what to do.
    """
    if need <= 0:
        return None

    def look() -> int:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        return shutil.disk_usage(existing).free

    try:
        free = bounded(look, FILE_SYSTEM_S)
    except TimeoutError:
        return f"{folder}: its file system does not answer within {FILE_SYSTEM_S:.0f} s; {remedy}"
    except OSError as error:
        return f"{folder}: its free space cannot be read ({error.strerror}); {remedy}"
    if free >= need:
        return None
    return f"{folder}: {need / 1e9:.2f} GB are needed but {free / 1e9:.2f} GB are free; {remedy}"


def _checkpoint_bytes(config: Any) -> int:
    """Compute the size of all checkpoints of a run."""
    with torch.device("meta"):
        network = build_network(config.model.architecture, config.model.num_classes)
    return _CHECKPOINTS * _BYTES_A_PARAMETER * sum(p.numel() for p in network.parameters())


def _shared_memory_bytes(config: Any) -> int:
    """Compute what this host needs in /dev/shm; its first process counts for all, the others say 0."""
    launch, data, trainer = find_launch(config), config.data, config.trainer
    if launch is None or launch.local_rank:
        return 0
    on_gpu, processes = is_on_gpu(trainer.accelerator), processes_here(trainer)
    return evaluation_bytes(data.image_size, data.batch_size, data.num_workers, processes, on_gpu)


def evaluation_bytes(
    image_size: int, batch_size: int, num_workers: int | Literal["auto"], processes: int, on_gpu: bool
) -> int:
    """Compute what batches of evaluation take in shared memory at most, for all processes of a host.

    The loader of training maps its memory in another way. On a CPU ``auto`` means no workers.
    """
    workers = 0
    if num_workers != "auto":
        workers = num_workers
    elif on_gpu:
        workers = max(1, min(MOST_WORKERS, usable_cores() // processes))
    return processes * workers * _PREFETCH * batch_size * 3 * (image_size + _MARGIN_PX) ** 2  # uint8
