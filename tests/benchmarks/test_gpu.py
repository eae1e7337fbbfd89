from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.chips import result_name
from benchmarks.gpu.parts import FULL, TOY, Model, Part, list_parts
from benchmarks.gpu.store import Store
from benchmarks.gpu.suite import Cut, Places, run_in_process, run_parts
from benchmarks.gpu.summary import as_lines, summarise

REPOSITORY = Path(__file__).parents[2]
NAME = "gpu_cpu_toy"
ABC = [Part("a", "x", least_s=1), Part("b", "x", least_s=1), Part("c", "x", least_s=1)]


class Runner:
    """Runs parts by name: each takes ten seconds of a clock that only it moves."""

    def __init__(self, outcomes: dict[str, Any] | None = None) -> None:
        self.outcomes = outcomes or {}
        self.now = 0.0
        self.begun: list[tuple[str, float]] = []

    def __call__(self, part: Part, left_s: float) -> dict[str, Any]:
        self.begun.append((part.name, left_s))
        self.now += 10
        outcome = self.outcomes.get(part.name, {"reading": {"part": part.name}})
        if outcome is Cut:
            raise Cut
        return dict(outcome)


def run(runner: Runner, folder: Path, budget_s: float = 1000, **options: Any) -> list[str]:
    return run_parts(ABC, Store(folder, NAME), runner, budget_s, clock=lambda: runner.now, **options)


def test_finished_parts_are_skipped_by_a_second_call(tmp_path: Path) -> None:
    first = Runner()
    assert run(first, tmp_path, budget_s=13.5) == ["b", "c"]
    assert [name for name, _ in first.begun] == ["a"]
    second = Runner()
    assert run(second, tmp_path) == []
    assert [name for name, _ in second.begun] == ["b", "c"]
    assert Store(tmp_path, NAME).parts["c"] == {"reading": {"part": "c"}, "wall_s": 10}


def test_each_part_is_on_disk_before_the_next_begins(tmp_path: Path) -> None:
    seen = []

    class Looking(Runner):
        def __call__(self, part: Part, left_s: float) -> dict[str, Any]:
            path = tmp_path / "gpu_cpu_toy.json"
            seen.append(sorted(json.loads(path.read_text())["parts"]) if path.exists() else [])
            return super().__call__(part, left_s)

    run(Looking(), tmp_path)
    assert seen == [[], ["a"], ["a", "b"]]
    assert [path.name for path in tmp_path.iterdir()] == ["gpu_cpu_toy.json"]  # and no part of a file


def test_parts_get_what_is_left_and_none_is_begun_with_too_little(tmp_path: Path) -> None:
    runner = Runner()
    assert run(runner, tmp_path, budget_s=23.5) == ["c"]
    assert runner.begun == [("a", 20.5), ("b", 10.5)]  # then 0.5 s would be left, less than c's least


def test_a_short_part_may_run_where_a_long_one_may_not(tmp_path: Path) -> None:
    parts = [Part("long", "x", least_s=60), Part("short", "x", least_s=5)]
    runner = Runner()
    left = run_parts(parts, Store(tmp_path, NAME), runner, 30, clock=lambda: runner.now)
    assert (left, [name for name, _ in runner.begun]) == (["long"], ["short"])


def test_a_part_that_the_budget_cuts_is_run_again(tmp_path: Path) -> None:
    assert run(Runner({"b": Cut}), tmp_path) == ["b"]
    assert sorted(Store(tmp_path, NAME).parts) == ["a", "c"]
    again = Runner()
    assert run(again, tmp_path) == []
    assert [name for name, _ in again.begun] == ["b"]


def test_errors_are_recorded_and_run_again_only_when_asked(tmp_path: Path) -> None:
    run(Runner({"b": {"error": "out of memory"}}), tmp_path)
    assert Store(tmp_path, NAME).parts["b"] == {"error": "out of memory", "wall_s": 10}
    idle, retrying = Runner(), Runner()
    assert (run(idle, tmp_path), idle.begun) == ([], [])
    run(retrying, tmp_path, retry=True)
    assert [name for name, _ in retrying.begun] == ["b"]
    assert "error" not in Store(tmp_path, NAME).parts["b"]


def test_each_kind_of_gpu_has_a_result_of_its_own() -> None:
    assert result_name("cuda", False, {"name": "NVIDIA H200"}) == "gpu_nvidia_h200"
    assert result_name("cuda", False, {"name": "NVIDIA H100 80GB HBM3"}) == "gpu_nvidia_h100_80gb_hbm3"
    assert result_name("cuda", True, {}) == "gpu_cuda_toy"
    assert result_name("cpu", True, {"name": "NVIDIA H200"}) == "gpu_cpu_toy"


def test_the_parts_come_in_order_of_importance() -> None:
    names = [part.name for part in list_parts(FULL, "cuda", toy=False)]
    assert len(set(names)) == len(names)
    assert names[:6] == [
        "chip",
        "pictures",
        "step/s/bf16-compiled",
        "train/s/ours/0",
        "train/s/ultralytics/0",
        "train/s/yolov5/0",
    ]
    turns = [name for name in names if name.startswith("train/s/") and "cached" not in name]
    assert [name.split("/")[2] for name in turns] == ["ours", "ultralytics", "yolov5"] * 2
    assert [name.split("/")[1] for name in names if name.endswith("bf16-compiled")] == ["s", "n", "x"]
    assert all(FULL.images % model.batch_size == 0 for model in FULL.models)


def reading(**values: Any) -> dict[str, Any]:
    return {"reading": values}


def test_summary_worked_by_hand() -> None:
    parts = {
        "step/s/bf16-compiled": reading(ms=20.0, peak_memory_mb=6000, ceiling={"images_per_second": 2500.0}),
        "step/s/bf16-eager": reading(ms=25.0, peak_memory_mb=8000),
        "step/s/fp32-compiled": reading(ms=50.0, peak_memory_mb=12000),
        "train/s/ours/0": reading(images_per_second=2400.0, **{"perf/device_idle_fraction": 0.01}),
        "train/s/ours/1": reading(images_per_second=2200.0, **{"perf/device_idle_fraction": 0.05}),
        "train/s/ultralytics/0": reading(images_per_second=1000.0),
        "train/s/ultralytics/1": reading(images_per_second=1100.0),
        "train/s/yolov5/0": reading(images_per_second=600.0),
        "train/s/yolov5/1": {"error": "out of memory"},
    }
    found = summarise(parts, (Model("s", 64),), is_gpu=True)["yolov5s"]
    assert found["ours / ultralytics, images/s"] == {
        "value": pytest.approx(2.2),  # of 2.4 and 2.0
        "target": ">= 2",
        "met": True,
    }
    assert found["ours / yolov5, images/s"]["value"] == pytest.approx(4.0)  # round 0 alone has both
    assert found["compiled / eager step, bf16, time"]["value"] == pytest.approx(0.8)
    assert found["compiled / eager step, bf16, time"]["met"] is True
    assert found["bf16 / fp32 peak memory, compiled"] == {"value": 0.5, "target": "<= 0.6", "met": True}
    assert found["end to end / resident ceiling, images/s"] == {
        "value": pytest.approx(0.92),  # 2300 of 2500
        "target": ">= 0.95",
        "met": False,
    }
    assert found["device idle fraction"] == {"value": pytest.approx(0.03), "target": "< 0.02", "met": False}
    assert "compiled / eager step, fp32, time" not in found  # eager fp32 was not measured


def test_summary_judges_nothing_that_was_not_on_a_gpu() -> None:
    parts = {
        "train/n/ours/0": reading(images_per_second=9.0),
        "train/n/yolov5/0": reading(images_per_second=1.0),
    }
    summary = summarise(parts, (Model("n", 2),), is_gpu=False)
    assert summary["yolov5n"]["ours / yolov5, images/s"] == {"value": 9.0, "target": ">= 3", "met": None}
    assert as_lines(summary)[1].endswith("9   target >= 3: not judged")


def test_a_program_that_fails_leaves_its_reason(tmp_path: Path) -> None:
    places = Places(tmp_path / "work", tmp_path / "site")
    found = run_in_process(Part("broken", "pictures", ("--device", "none")), 140, places, toy=True)
    assert "invalid choice: 'none'" in found["error"]
    assert found["log"][-1] == found["error"]
    raised = run_in_process(Part("raises", "no_such_program"), 140, places, toy=True)
    assert raised["error"].startswith("ModuleNotFoundError")
    assert "REPOSITORY/benchmarks/gpu/launch.py" in "\n".join(raised["log"])
    assert str(REPOSITORY) not in json.dumps(raised)


def test_a_program_is_cut_when_the_time_ends_and_failed_when_its_own_does(tmp_path: Path) -> None:
    places = Places(tmp_path / "work", tmp_path / "site")
    with pytest.raises(Cut):
        run_in_process(Part("slow", "pictures", most_s=60), 0.01, places, toy=True)
    found = run_in_process(Part("slow", "pictures", most_s=0.01), 60, places, toy=True)
    assert found["error"].startswith("ended after 0 s")


def test_the_command_resumes_and_tells_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), "--device", "cpu", "--toy"]

    def call(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *options], cwd=REPOSITORY, capture_output=True, text=True)

    none = call("--budget_s", "1")
    assert (none.returncode, "still to be run: chip, pictures" in none.stdout) == (3, True)
    made = call("--only", "pictures")
    assert made.returncode == 0, made.stdout + made.stderr
    assert "pictures: done" in made.stdout
    assert "pictures: done" not in call("--only", "pictures").stdout
    content = json.loads((tmp_path / "gpu_cpu_toy.json").read_text())
    assert content["parts"]["pictures"]["reading"]["images"] == TOY.images
    assert len(content["calls"]) == 3
    assert str(tmp_path) not in json.dumps(content)
