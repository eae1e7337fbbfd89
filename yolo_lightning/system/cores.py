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

    Args:
        cgroup: Where the control group file systems are mounted.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    limits = [len(affinity(0)) if affinity else os.cpu_count() or 1]
    quota = _quota(cgroup)
    if quota is not None:
        limits.append(math.ceil(quota))
    task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if task.isascii() and task.isdigit():
        limits.append(int(task))
    return max(1, min(limits))


def _quota(cgroup: Path) -> float | None:
    """CPU time a second of wall time that the control group allows; None without a limit."""
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
        return None
    return min(shares, default=None)


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
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::").strip()
    return ""


def limit_threads(processes: int = 1) -> None:
    """Let torch compute with no more threads than there are cores for this process.

    In a container or a cluster job torch starts a thread for every core of the machine. What the
    user has set by ``OMP_NUM_THREADS`` stays.

    Args:
        processes: That share the cores on this machine.
    """
    cores = max(1, usable_cores() // processes)
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > cores:
        torch.set_num_threads(cores)
