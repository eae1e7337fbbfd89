"""Cores and memory that this process may use: a container or a cluster job has a part of the machine."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """CPU cores that this process may keep busy, 1 or more.

    The least of the cores in its affinity mask, the CPU quota of its control group (version 2 or
    1; a container's ``--cpus``), and ``SLURM_CPUS_PER_TASK``. Threads beyond that do not run in
    parallel: the kernel stops them all until the next period, and training stutters.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    limits = [len(affinity(0)) if affinity else os.cpu_count() or 1]
    limits += [math.ceil(quota) for quota in _quotas(cgroup)]
    task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if task.isascii() and task.isdigit():
        limits.append(int(task))
    return max(1, min(limits))


def _quotas(cgroup: Path) -> list[float]:
    """CPU time a second of wall time that each control group of the process allows."""
    shares = []
    try:
        for group in _groups(cgroup):
            file = group / "cpu.max"
            if file.is_file():
                limit, period = file.read_text().split()
                if limit != "max":
                    shares.append(int(limit) / int(period))
        first = cgroup / "cpu"
        if (first / "cpu.cfs_quota_us").is_file():
            limit_us = int((first / "cpu.cfs_quota_us").read_text())
            period_us = int((first / "cpu.cfs_period_us").read_text())
            if limit_us > 0:
                shares.append(limit_us / period_us)
    except (OSError, ValueError, ZeroDivisionError):
        return []
    return shares


def free_in_group(cgroup: Path = CGROUP) -> int:
    """Bytes that this process may still take in its control group (version 2); 2^62 without a limit.

    What the group holds of files counts as free, since the kernel gives it back.
    """
    free = [1 << 62]
    try:
        for group in _groups(cgroup):
            limit = group / "memory.max"
            if limit.is_file() and (text := limit.read_text().strip()) != "max":
                used = int((group / "memory.current").read_text())
                rows = (row.split() for row in (group / "memory.stat").read_text().splitlines())
                files = sum(int(row[1]) for row in rows if row[0] in ("inactive_file", "active_file"))
                free.append(int(text) - used + files)
    except (OSError, ValueError, IndexError):
        return min(free)
    return max(0, min(free))


def _groups(cgroup: Path) -> list[Path]:
    """The process's group of version 2 and those above it, whose limits hold too."""
    own = _own_group().lstrip("/")
    if not own:
        return [cgroup]
    path = cgroup / own
    return [path, *(parent for parent in path.parents if parent.is_relative_to(cgroup))]


def _own_group() -> str:
    """Path of the process's group within the version 2 hierarchy; in a container usually the root."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next((line[3:].strip() for line in lines if line.startswith("0::")), "")


def limit_threads() -> None:
    """Let torch compute with no more threads than there are cores for this process.

    In a container or a cluster job torch starts a thread for every core of the machine. What the
    user has set by ``OMP_NUM_THREADS`` stays.
    """
    cores = usable_cores()
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > cores:
        torch.set_num_threads(cores)
