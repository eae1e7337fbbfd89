from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from yolo_lightning.system import core_time
from yolo_lightning.system.core_time import (
    CoreUse,
    OtherPrograms,
    Process,
    other_programs,
    read_core_use,
    waited_s,
)

needs_linux = pytest.mark.skipif(waited_s() is None, reason="needs Linux's record of waits")


def use(busy_s: float, **processes: tuple[int, int, float]) -> CoreUse:
    """A reading on two cores; of each process its number, its parent's, and the seconds it ran."""
    return CoreUse(2, busy_s, {number: Process(n, parent, s) for n, (number, parent, s) in processes.items()})


def test_children_are_no_other_programs() -> None:
    before = use(50, shell=(1, 0, 1), python=(7, 1, 10), worker=(8, 7, 5), ffmpeg=(9, 1, 20))
    after = use(
        70, shell=(1, 0, 1), python=(7, 1, 18), worker=(8, 7, 7), helper=(10, 8, 1), ffmpeg=(9, 1, 28)
    )
    assert other_programs(before, after, 7) == OtherPrograms(20 - 8 - 2 - 1, "ffmpeg (process 9)")


def test_a_child_that_has_ended_counts_once() -> None:
    before = use(50, python=(7, 1, 10), worker=(8, 7, 5))
    after = use(62, python=(7, 1, 10 + 8 + 4))  # 8 s of the worker, which has ended, and 4 s of its own
    assert other_programs(before, after, 7).ran_s == pytest.approx(12 - 3 - 4)


def test_no_program_is_named_if_none_took_half() -> None:
    before = use(0, python=(7, 1, 0))
    after = use(10, python=(7, 1, 2), a=(20, 1, 3), b=(21, 1, 3))
    assert other_programs(before, after, 7) == OtherPrograms(8)
    assert other_programs(before, use(10, python=(7, 1, 2)), 7) == OtherPrograms(8)  # none is visible


def test_the_records_of_linux_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_time.os, "sched_getaffinity", lambda _: {0, 2}, raising=False)
    monkeypatch.setattr(core_time, "_TICK_S", 0.01)
    cores = "cpu{} 100 10 200 5000 300 20 30 40 7 7\n"
    (tmp_path / "stat").write_text("".join(cores.format(i) for i in ("", 0, 1, 2)) + "intr 1 2 3\n")
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "stat").write_text("12 (a (b) c) S 3 12 12 0 -1 0 1 2 3 4 110 20 300 4 20 0 1\n")
    for thread, nanoseconds in ((12, 2 * 10**9), (13, 500_000_000)):
        (tmp_path / "self" / "task" / str(thread)).mkdir(parents=True)
        (tmp_path / "self" / "task" / str(thread) / "schedstat").write_text(f"7 {nanoseconds} 9\n")
    found = read_core_use(tmp_path)
    assert found is not None
    assert (found.cores, found.busy_s) == (2, pytest.approx(2 * 4.0))
    assert found.processes == {12: Process("a (b) c", 3, pytest.approx(4.34))}
    assert waited_s(tmp_path) == pytest.approx(2.5)


def test_a_system_without_records_gives_none(tmp_path: Path) -> None:
    assert waited_s(tmp_path) is None
    assert read_core_use(tmp_path) is None


@needs_linux
def test_the_wait_for_a_core_that_another_program_keeps_busy_is_seen() -> None:
    """Both run on one core: in a process of its own, because a core is bound for good."""
    program = """
import os, subprocess, sys, time
from yolo_lightning.system.core_time import other_programs, read_core_use, waited_s
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
waited, used = waited_s(), read_core_use()
ends_s = time.monotonic() + 20
while time.monotonic() < ends_s:
    sum(range(100_000))
    others = other_programs(used, read_core_use(), os.getpid())
    if waited_s() - waited > 0.2 and others.ran_s > 0.2:
        print("seen")
        break
"""
    core = sorted(os.sched_getaffinity(0))[0]
    busy = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{core}])\nwhile True: 0"]
    )
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    finally:
        busy.kill()
        busy.wait()
    assert done.stdout.strip() == "seen"
