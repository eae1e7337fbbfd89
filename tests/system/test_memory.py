from __future__ import annotations

import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys
import torch
from yolo_lightning.system.memory import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    raise SystemExit(3)

def step():
    return torch.ones(16, 64, 96, 96).mul(2).add(1).sum().item()  # 38 MB each: always mapped by default

for _ in range(10):  # until the blocks have found their places
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    command = [sys.executable, "-c", COUNT_FAULTS, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode == 3:
        pytest.skip("the allocator is not glibc's")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_of_a_step_is_used_again_by_the_next() -> None:
    assert page_faults("keep") * 10 < page_faults("leave")
