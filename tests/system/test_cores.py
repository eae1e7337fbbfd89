from __future__ import annotations

from pathlib import Path

import pytest

from yolo_lightning.system import cores
from yolo_lightning.system.cores import usable_cores


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)


def _belong_to(group: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process belong to a control group; None is a system that does not say."""
    read_text = Path.read_text

    def read(path: Path, *arguments: object) -> str:
        if path != Path("/proc/self/cgroup"):
            return read_text(path, *arguments)  # type: ignore[arg-type]
        if group is None:
            raise FileNotFoundError
        return f"4:memory:/elsewhere\n0::{group}\n"

    monkeypatch.setattr(Path, "read_text", read)


def _tree(root: Path, limits: dict[str, str]) -> Path:
    """A file system of control groups: name of a file and what is in it."""
    for name, content in limits.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


@pytest.mark.parametrize(
    ("group", "limits", "expected"),
    [
        ("/", {}, 16),
        ("/", {"cpu.max": "400000 100000\n"}, 4),  # as a container sees itself
        ("/", {"cpu.max": "max 100000\n"}, 16),
        ("/", {"cpu.max": "150000 100000\n"}, 2),  # one and a half: the second one is half used
        ("/", {"cpu.max": "10000 100000\n"}, 1),
        ("/", {"cpu.max": "6400000 100000\n"}, 16),
        ("/", {"cpu.max": "100000 50000\n"}, 2),
        ("/a/b/c", {"a/b/c/cpu.max": "300000 100000\n"}, 3),
        ("/a/b/c", {"a/b/cpu.max": "300000 100000\n", "a/b/c/cpu.max": "max 100000\n"}, 3),
        ("/a/b/c", {"a/cpu.max": "200000 100000\n", "a/b/c/cpu.max": "500000 100000\n"}, 2),
        ("/a/b/c", {"a/cpu.max": "900000 100000\n", "a/b/c/cpu.max": "500000 100000\n"}, 5),
        ("/a/b", {"a/other/cpu.max": "100000 100000\n", "a/b/cpu.max": "max 100000\n"}, 16),
        ("/not/mounted/here", {"cpu.max": "700000 100000\n"}, 7),
    ],
)
def test_version_2_quota_of_the_group_and_those_above(
    group: str, limits: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _belong_to(group, monkeypatch)
    assert usable_cores(_tree(tmp_path, limits)) == expected


@pytest.mark.parametrize(("quota", "expected"), [("250000\n", 3), ("100000\n", 1), ("-1\n", 16)])
def test_version_1_quota(quota: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _belong_to("/", monkeypatch)
    limits = {"cpu/cpu.cfs_quota_us": quota, "cpu/cpu.cfs_period_us": "100000\n"}
    assert usable_cores(_tree(tmp_path, limits)) == expected


@pytest.mark.parametrize(
    "limits",
    [
        {"cpu.max": ""},
        {"cpu.max": "400000"},
        {"cpu.max": "four cores"},
        {"cpu.max": "1 2 3"},
        {"cpu/cpu.cfs_quota_us": "some", "cpu/cpu.cfs_period_us": "100000"},
        {"cpu/cpu.cfs_quota_us": "400000"},
    ],
)
def test_what_is_no_quota_is_no_limit(
    limits: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _belong_to("/", monkeypatch)
    assert usable_cores(_tree(tmp_path, limits)) == 16


def test_a_system_without_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _belong_to(None, monkeypatch)
    assert usable_cores(tmp_path / "none") == 16
    monkeypatch.delattr(cores.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 5)
    assert usable_cores(tmp_path / "none") == 5
    monkeypatch.setattr(cores.os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path / "none") == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [("6", 6), ("64", 8), ("1", 1), ("0", 1), ("", 8), ("two", 8), ("-3", 8), ("2.5", 8)],
)
def test_the_least_of_affinity_quota_and_slurm(
    given: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _belong_to("/", monkeypatch)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
    tree = _tree(tmp_path, {"cpu.max": "800000 100000\n"})
    assert usable_cores(tree) == expected
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: {3, 7}, raising=False)
    assert usable_cores(tree) == min(2, expected)


def test_memory_of_the_control_group_and_those_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "_own_group", lambda: "/job/task")
    task = tmp_path / "job" / "task"
    task.mkdir(parents=True)
    assert cores.free_in_group(tmp_path) == 1 << 62
    (task / "memory.max").write_text("max\n")
    assert cores.free_in_group(tmp_path) == 1 << 62
    (tmp_path / "job" / "memory.max").write_text("1000\n")
    (tmp_path / "job" / "memory.current").write_text("700\n")
    (tmp_path / "job" / "memory.stat").write_text("anon 400\ninactive_file 200\nactive_file 50\n")
    assert cores.free_in_group(tmp_path) == 1000 - 700 + 250
    (task / "memory.max").write_text("100\n")
    (task / "memory.current").write_text("120\n")
    (task / "memory.stat").write_text("anon 120\n")
    assert cores.free_in_group(tmp_path) == 0
    (task / "memory.current").write_text("?\n")
    assert cores.free_in_group(tmp_path) == 1 << 62
