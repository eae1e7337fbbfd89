from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from yolo_lightning.system import openmp
from yolo_lightning.system.openmp import SleepingThreads

needs_gnu_openmp = pytest.mark.skipif(openmp._gnu_openmp() is None, reason="needs GNU's OpenMP")


@needs_gnu_openmp
def test_there_are_more_openmp_threads_than_cores_until_it_stops() -> None:
    """In a process of its own, where no other thread begins or ends."""
    program = """
import os, time
import torch
from yolo_lightning.system.openmp import SleepingThreads

def threads():
    return len(os.listdir("/proc/self/task"))

before, sleeping = threads(), SleepingThreads()
sleeping.start()
sleeping.start()
print(sleeping.active, threads() - before)
sleeping.stop()
sleeping.stop()
ends_s = time.monotonic() + 20  # the kernel ends a thread in its own time
while threads() > before and time.monotonic() < ends_s:
    time.sleep(0.01)
print(sleeping.active, threads() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    team = len(os.sched_getaffinity(0))
    assert done.stdout.splitlines() == [f"True {1 + team}", "False 0"]  # a thread of ours, and its team


@needs_gnu_openmp
def test_results_and_number_of_threads_stay() -> None:
    values, sleeping = torch.rand(1_000_003, generator=torch.Generator().manual_seed(0)), SleepingThreads()
    threads, awake = torch.get_num_threads(), values.sum()
    sleeping.start()
    assert torch.get_num_threads() == threads
    assert torch.equal(values.sum(), awake)
    sleeping.stop()


def test_nothing_happens_without_gnu_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp, "_gnu_openmp", lambda: None)
    sleeping = SleepingThreads()
    sleeping.start()
    assert not sleeping.active
