"""Facts of each rank (versions, data, devices, free space, options), and their differences in words."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from ..data.annotations.index import DatasetIndex
from ..data.image_size import as_size
from ..data.images.choose_cache import MOST_WORKERS
from ..data.module import PATH_OPTIONS
from ..model.network import build_network
from ..system.cores import usable_cores
from ..system.environment import PACKAGES, git_commit, package_version
from ..system.text import one_line
from .ddp import is_on_gpu, processes_here
from .failure import bounded, name_ranks

FILE_SYSTEM_S = 50.0
"""Longest wait for a file system, in s; an automounter may take 30 s, one that is gone never answers."""
_CHECKPOINT_BYTES = 4 * 12
"""Bytes of all checkpoints of a run for each parameter: best, last, the previous last and one being written;
weights, their average and momentum, float32 each."""
SHARED_MEMORY = Path("/dev/shm")
_PREFETCH = 2
"""Batches that each worker of torch's loader makes ahead."""
_MARGIN_PX = 64
"""Largest excess of a rectangle of evaluation over the image size: a stride of P6."""


@dataclass
class Facts:
    """Facts of one rank."""

    values: dict[str, dict[str, str]] = field(default_factory=dict)
    """Kind (a key of ``RULES``) to name to value."""
    problems: list[str] = field(default_factory=list)
    """Problems of this rank, one sentence each."""


def facts_of_run(config: Any, run_directory: Path, is_training: bool, step: int = 0) -> Facts:
    """Gather what has to be alike on all ranks, and what each needs.

    Args:
        config: the options of a subcommand, resolved.
        run_directory: need not exist yet.
        is_training: True for ``fit``.
        step: of the checkpoint that is resumed.
    """
    paths = {f"data.{name}": Path(config.data[name]) for name in PATH_OPTIONS if config.data[name]}
    may_differ = {"runs_dir", *paths}
    options = {name: str(value) for name, value in config.items() if name not in may_differ}
    values = {**machine_facts(), "option": options}
    if config.ckpt_path:
        path = paths["ckpt_path"] = Path(config.ckpt_path)
        try:
            size = f"{bounded(path.stat, FILE_SYSTEM_S).st_size:,} bytes"
        except (OSError, TimeoutError):
            size = "missing"
        values["checkpoint"] = {"the checkpoint that is resumed": f"{path} at step {step} ({size})"}
    problems = [why_invisible(path, option) for option, path in paths.items()]
    if is_training:
        with torch.device("meta"):
            network = build_network(config.model.architecture, config.model.num_classes)
        need = _CHECKPOINT_BYTES * sum(parameter.numel() for parameter in network.parameters())
        remedy = "make room, or choose another place with --runs_dir"
        problems.append(why_too_little_room(run_directory, need, remedy))
    remedy = "mount it larger, or give fewer --data.num_workers or a smaller --data.batch_size"
    problems.append(why_too_little_room(SHARED_MEMORY, evaluation_bytes(config), remedy))
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


def index_facts(indices: Mapping[str, DatasetIndex]) -> Facts:
    """Gather the data sets as read here, by split."""
    digests = {f"the {split} split": index_digest(index) for split, index in indices.items()}
    return Facts({"index": digests})


def index_digest(index: DatasetIndex) -> str:
    """Count the images and labels, and digest all that training sees of an index.

    Paths are relative to the folder that all images share, so that hosts with the same data set in
    different places agree.
    """
    digest = hashlib.sha256(repr((index.split, index.class_names, len(index))).encode())
    digest.update(_relative_paths(index))
    for array in (
        *(index.category_ids, index.image_ids, index.sizes, index.offsets, index.classes),
        *(index.boxes, index.areas, index.crowd, index.trainable),
    ):
        digest.update(repr((array.dtype.str, array.shape)).encode())
        digest.update(array.tobytes())
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

    reason = _look(look)
    return f"{path}: {reason} on this host; mount it there or correct --{option}" if reason else None


def why_too_little_room(folder: Path, need: int, remedy: str) -> str | None:
    """Say what is wrong with the free space in a folder that may not exist yet, which needs so many bytes."""

    def look() -> str | None:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        return f"{need / 1e9:.2f} GB are needed but {free / 1e9:.2f} GB are free" if free < need else None

    reason = _look(look)
    return f"{folder}: {reason}; {remedy}" if reason else None


def _look(look: Callable[[], str | None]) -> str | None:
    """Say what a look at a file system finds wrong, also that it does not answer."""
    try:
        return bounded(look, FILE_SYSTEM_S)
    except TimeoutError:
        return f"does not answer within {FILE_SYSTEM_S:.0f} s"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def evaluation_bytes(config: Any) -> int:
    """Compute what batches of evaluation take at most in the shared memory of this host.

    Its first process counts for all, the others say 0. The loader of training maps its memory in another way.
    """
    if int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0):
        return 0
    data, processes, workers = config.data, processes_here(config.trainer), config.data.num_workers
    if workers == "auto":  # on a CPU there are none
        on_gpu = is_on_gpu(config.trainer.accelerator)
        workers = max(1, min(MOST_WORKERS, usable_cores() // processes)) if on_gpu else 0
    height, width = as_size(data.image_size)
    pixels = data.batch_size * (height + _MARGIN_PX) * (width + _MARGIN_PX)  # of 3 bytes
    return int(processes * workers * _PREFETCH * 3 * pixels)


@dataclass(frozen=True)
class Rule:
    """Meaning of a difference of one kind."""

    remedy: str
    is_error: bool = True


RULES = {
    "package": Rule("install the same version on all hosts"),
    "build": Rule("install the same build of torch on all hosts"),
    "python": Rule("use the same Python on all hosts"),
    "patch": Rule("better use the same Python on all hosts", is_error=False),
    "commit": Rule("check out the same commit on all hosts"),
    "gpus": Rule("give each host as many GPUs, and look at CUDA_VISIBLE_DEVICES"),
    "gpu": Rule("every step waits for the slowest", is_error=False),
    "option": Rule("start all ranks with the same options"),
    "checkpoint": Rule("put --runs_dir on a file system that all hosts share"),
    "index": Rule("copy the same images and annotations to all hosts"),
}
"""Kind of fact to the meaning of a difference. A kind does not repeat what an earlier one reported."""

_MOST = 5
"""Differences that are listed."""
_LONGEST = 121
"""Characters of a value that are shown."""


def compare_facts(
    values: Mapping[int, Mapping[str, Mapping[str, str]]], hosts: Mapping[int, str]
) -> tuple[str, list[str]]:
    """Find where ranks differ from rank zero.

    Returns:
        What is wrong as one line (empty: nothing), and a sentence for each difference that only
        deserves a warning.
    """
    errors: list[str] = []
    warnings: list[str] = []
    told: set[tuple[str, int]] = set()
    for kind, rule in RULES.items():
        names = dict.fromkeys(name for found in values.values() for name in found.get(kind, {}))
        for name in names:
            own = values[0].get(kind, {}).get(name, "unknown")
            others: dict[str, list[int]] = {}
            for rank in sorted(values):
                value = values[rank].get(kind, {}).get(name, "unknown")
                if value != own and (name, rank) not in told:
                    others.setdefault(value, []).append(rank)
                    told.add((name, rank))
            if others:
                first, *parts = (
                    f"{one_line(value, _LONGEST)} on {name_ranks(ranks, hosts)}"
                    for value, ranks in ((own, [0]), *others.items())
                )
                sentence = f"{name} is {first} but {', '.join(parts)}; {rule.remedy}"
                (errors if rule.is_error else warnings).append(sentence)
    more = f" | and {len(errors) - _MOST} other differences" if len(errors) > _MOST else ""
    return " | ".join(errors[:_MOST]) + more, warnings
