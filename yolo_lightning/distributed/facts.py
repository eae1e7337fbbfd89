"""What a rank finds out about itself: versions, data, devices, room, options."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
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
from ..system.environment import PACKAGES, git_commit
from .ddp import is_on_gpu, processes_here
from .launch import find_launch
from .time_limit import bounded

FILE_SYSTEM_S = 15.0
"""How long a file system may take to answer, in s; one on a network that is gone never does."""
SHARED_MEMORY = Path("/dev/shm")
_BYTES_A_PARAMETER = 12
"""Of a checkpoint: weights, their average and momentum, float32 each."""
_CHECKPOINTS = 4
"""In the run directory at most: best, last, the one before it, and the one that is being written."""


@dataclass
class Facts:
    """What one rank found about itself."""

    values: dict[str, dict[str, str]] = field(default_factory=dict)
    """Kind (a key of ``comparison.RULES``) to name to value."""
    problems: list[str] = field(default_factory=list)
    """What is wrong here whatever the others have, one sentence each."""


def gather_facts(
    *,
    packages: Sequence[str],
    commit: str | None,
    data: Mapping[str, Path],
    run_directory: Path,
    run_bytes: int,
    shared_memory_bytes: int = 0,
    options: Mapping[str, str] | None = None,
    checkpoint: tuple[Path, int] | None = None,
) -> Facts:
    """What this rank has, for ``Meeting.compare``.

    Args:
        packages: names of those whose versions must be equal.
        commit: of the checkout that runs, or None.
        data: option to the folder or file that it names, which must be readable here.
        run_directory: of the run; need not exist yet.
        run_bytes: what the run is going to write there at least, in bytes.
        shared_memory_bytes: what it is going to need in /dev/shm on this host, in bytes; 0 where
            another process of the host reckons with it.
        options: from :func:`option_values`.
        checkpoint: the one that is resumed, and its step.
    """
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    build = {"torch": str(torch.__version__), "CUDA of torch": str(torch.version.cuda)}
    if gpus and torch.distributed.is_nccl_available():
        build["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    values = {
        "package": {name: _version(name) for name in packages},
        "build": build,
        "python": {"Python": ".".join(platform.python_version_tuple()[:2])},
        "patch": {"Python": platform.python_version()},
        "commit": {"the commit of yolo-lightning": str(commit)},
        "gpus": {"the number of GPUs that a process sees": str(len(gpus))},
        "gpu": {"the GPU": ", ".join(dict.fromkeys(gpus)) or "none"},
        "option": dict(options or {}),
        "checkpoint": {},
    }
    problems = [problem for option, path in data.items() if (problem := why_invisible(path, option))]
    if checkpoint is not None:
        path, step = checkpoint
        problem = why_invisible(path, "ckpt_path")
        problems += [problem] if problem else []
        values["checkpoint"] = {"the checkpoint that is resumed": f"{path} at step {step} ({_size(path)})"}
    for folder, need, remedy in (
        (run_directory, run_bytes, "make room, or choose another place with --runs_dir"),
        (
            SHARED_MEMORY,
            shared_memory_bytes,
            "mount it larger, or give fewer --data.num_workers or a smaller --data.batch_size",
        ),
    ):
        problem = why_too_little_room(folder, need, remedy)
        problems += [problem] if problem else []
    return Facts(values, problems)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _size(path: Path) -> str:
    """Of a file that may have gone, on a file system that may not answer."""
    try:
        return f"{bounded(path.stat, FILE_SYSTEM_S).st_size:,} bytes"
    except (OSError, TimeoutError):
        return "missing"


def index_facts(indices: Mapping[str, DatasetIndex]) -> Facts:
    """The data sets as read here.

    Args:
        indices: split to its index.
    """
    digests = {f"the {split} split": index_digest(index) for split, index in indices.items()}
    return Facts({"index": digests})


def index_digest(index: DatasetIndex) -> str:
    """Number of images and a digest of all that training sees of an index.

    Paths count from the folder that all images share, so that hosts which have the same data set in
    different places agree.
    """
    paths = _relative_paths(index)
    digest = hashlib.sha256(repr((index.split, index.class_names, len(index))).encode())
    digest.update(paths)
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
    """The paths without the folder that they share, each ended by a zero byte; they are sorted."""
    if not len(index):
        return b""
    ends = index.path_offsets.tolist()
    whole = index.path_bytes
    folders = [os.path.dirname(path) for path in (whole[: ends[1]], whole[ends[-2] : ends[-1]])]
    cut = len(os.path.commonpath(folders).rstrip(b"/")) + 1
    return b"\0".join(whole[begin + cut : end] for begin, end in pairwise(ends))


def option_values(options: Mapping[str, object], leave_out: Collection[str] = ()) -> dict[str, str]:
    """Nested options as ``dotted.name`` to text.

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
    """What is wrong with a folder or file that should be readable, or None."""

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
    """What is wrong with the room in a folder that may still have to be made, or None.

    Args:
        folder: where something is going to be written.
        need: how much, in bytes; 0 asks for nothing.
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


_PREFETCH = 2
"""Batches that each worker of torch's loader makes ahead."""
_MARGIN = 64
"""By how much the rectangles of evaluation are longer than the image size at most, in px: a stride of P6."""


def evaluation_bytes(
    image_size: int, batch_size: int, num_workers: int | Literal["auto"], processes: int, on_gpu: bool
) -> int:
    """What the batches of evaluation take while they are handed over, at most, by all processes of a host.

    The loader of training maps its memory in another way.

    Args:
        image_size: S in px.
        batch_size: B.
        num_workers: as ``data.num_workers``.
        processes: of the run on this host.
        on_gpu: whether it trains on GPUs; on a CPU ``auto`` means no workers.
    """
    workers = 0
    if num_workers != "auto":
        workers = num_workers
    elif on_gpu:
        workers = max(1, min(MOST_WORKERS, usable_cores() // processes))
    return processes * workers * _PREFETCH * batch_size * 3 * (image_size + _MARGIN) ** 2  # uint8


def _shared_memory_bytes(config: Any) -> int:
    """What this host needs in /dev/shm; its first process reckons for all of them."""
    launch, data = find_launch(config), config.data
    if launch is None or launch.local_rank:
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
    names = PATH_OPTIONS
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
