"""Time on the CPU cores: how long the threads of this process waited for one, and what other programs took.

Linux records both; other systems give None.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01


class Process(NamedTuple):
    """A process of this machine."""

    name: str
    parent: int
    ran_s: float  # CPU time, with that of its children that have ended


class CoreUse(NamedTuple):
    """CPU time since the start of the machine."""

    cores: int  # cores on which this process may run
    busy_s: float  # of these cores together, whatever ran there
    processes: dict[int, Process]  # by number; in a container its own alone


class OtherPrograms(NamedTuple):
    """What ran on the cores of this process between two readings, its children apart."""

    ran_s: float
    largest: str = ""  # name and number of the program that ran most of that time; empty if none is visible


def waited_s(proc: Path = PROC) -> float | None:
    """Time that the living threads of this process could have run, but had no core."""
    total_ns, found = 0, False
    for record in proc.glob("self/task/*/schedstat"):
        try:
            total_ns += int(record.read_text().split()[1])
            found = True
        except OSError:  # the thread has ended
            continue
    return total_ns / 1e9 if found else None


def read_core_use(proc: Path = PROC) -> CoreUse | None:
    """The use of this process's cores until now."""
    affinity = getattr(os, "sched_getaffinity", None)
    if affinity is None or not (proc / "stat").exists():
        return None
    cores = affinity(0)
    names = {f"cpu{core}" for core in cores}
    rows = [line.split() for line in (proc / "stat").read_text().splitlines()]
    # user, nice, system, idle, iowait, irq, softirq, steal
    ticks = sum(sum(map(int, (*row[1:4], *row[6:9]))) for row in rows if row[0] in names)
    processes = {}
    for record in proc.glob("[0-9]*/stat"):
        try:
            head, _, tail = record.read_text(errors="replace").rpartition(")")
        except OSError:  # the process has ended
            continue
        fields = tail.split()  # from the third of proc_pid_stat(5) on
        ran = sum(map(int, fields[11:15])) * _TICK_S
        processes[int(record.parent.name)] = Process(head.partition("(")[2], int(fields[1]), ran)
    return CoreUse(len(cores), ticks * _TICK_S, processes)


def other_programs(before: CoreUse, after: CoreUse, pid: int) -> OtherPrograms:
    """Programs other than process ``pid`` and its descendants between two readings."""
    ran = after.busy_s - before.busy_s - (_tree_s(after, pid) - _tree_s(before, pid))
    own = _tree(after, pid)
    grown = {
        number: process.ran_s - (before.processes[number].ran_s if number in before.processes else 0.0)
        for number, process in after.processes.items()
        if number not in own
    }
    number = max(grown, key=grown.__getitem__, default=None)
    if number is None or grown[number] < ran / 2:
        return OtherPrograms(max(0.0, ran))
    return OtherPrograms(max(0.0, ran), f"{after.processes[number].name} (process {number})")


def _tree(use: CoreUse, pid: int) -> set[int]:
    """The process and its descendants."""
    found, new = set[int](), {pid}
    while new:
        found |= new
        new = {number for number, process in use.processes.items() if process.parent in new} - found
    return found


def _tree_s(use: CoreUse, pid: int) -> float:
    return sum(use.processes[number].ran_s for number in _tree(use, pid) if number in use.processes)
