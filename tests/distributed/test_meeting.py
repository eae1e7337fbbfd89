from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace
from lightning.pytorch.plugins.environments import SLURMEnvironment

from yolo_lightning.distributed import meeting as ranks
from yolo_lightning.distributed.meeting import _environment, facts_of, meet
from yolo_lightning.errors import InputError
from yolo_lightning.model.network import build_network


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("SLURM_", "TORCHELASTIC_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_")
    for name in [name for name in os.environ if name.startswith(names)]:
        monkeypatch.delenv(name)


def config(**trainer: Any) -> Namespace:
    given = {"accelerator": "cpu", "devices": "auto", "num_nodes": 1, **trainer}
    return Namespace(trainer=Namespace(**given), preflight_seconds=5.0)


def test_a_process_alone_meets_nobody() -> None:
    assert _environment(config(devices=2)) is None  # Lightning starts the other one
    assert meet(config()).world_size == 1


def test_tasks_of_slurm_meet_if_they_are_the_processes_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    with pytest.raises(InputError, match="give --ntasks-per-node"):
        _environment(config(devices=2, num_nodes=2))
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    assert isinstance(_environment(config(devices=2, num_nodes=2)), SLURMEnvironment)
    assert _environment(config()) is None  # in the batch script, srun has started nothing yet
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    with pytest.raises(InputError, match=r"Slurm started 4 tasks.*are 2 processes"):
        _environment(config(devices=2))


def test_processes_that_somebody_started_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RANK": 1,
        "LOCAL_RANK": 1,
        "WORLD_SIZE": 2,
        "MASTER_ADDR": "h",
        "MASTER_PORT": 5,
    }.items():
        monkeypatch.setenv(name, str(value))
    environment = _environment(config(devices=2))
    assert environment is not None
    assert (environment.global_rank(), environment.world_size(), environment.main_address) == (1, 2, "h")


def started(monkeypatch: pytest.MonkeyPatch, local_rank: int, processes: int) -> None:
    """Make this one of the processes that were started by hand on one host."""
    monkeypatch.setenv("MASTER_ADDR", "h")
    monkeypatch.setenv("MASTER_PORT", "5")
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, str(local_rank))


def all_options(root: Path, ckpt_path: Path | None = None, **data: Any) -> Namespace:
    paths = {
        f"{split}_{kind}": None for split in ("train", "val", "test") for kind in ("annotations", "images")
    }
    given = {"image_size": 64, "batch_size": 2, "num_workers": 0, **data}
    return Namespace(
        **vars(config(devices=2)),
        data=Namespace(root=str(root), **given, **paths),
        model=Namespace(architecture="yolov5n", num_classes=3),
        ckpt_path=ckpt_path and str(ckpt_path),
        runs_dir=str(root),
    )


def test_facts_name_what_a_rank_does_not_see(tmp_path: Path) -> None:
    facts = facts_of(all_options(tmp_path / "away"), tmp_path, is_training=True)
    [problem] = facts.problems
    assert "away" in problem and "data.root" in problem
    assert facts.values["option"]["model.architecture"] == "yolov5n"
    assert not any("root" in name or "runs_dir" in name for name in facts.values["option"])


def test_a_resumed_checkpoint_is_compared_by_its_step_also_where_it_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"12345")
    facts = facts_of(all_options(tmp_path, path), tmp_path, is_training=False, step=700)
    [value] = facts.values["checkpoint"].values()
    assert value == f"{path} at step 700 (5 bytes)"
    path.unlink()
    facts = facts_of(all_options(tmp_path, path), tmp_path, is_training=False, step=700)
    assert [problem for problem in facts.problems if "ckpt_path" in problem]


@pytest.mark.parametrize(
    ("local_rank", "workers", "needed"),
    [(0, 3, 2 * 3 * 2 * 8 * 3 * (640 + 64) ** 2), (1, 3, 0), (0, 0, 0), (0, "auto", 0)],
)
def test_the_first_process_of_a_host_reckons_with_the_shared_memory_of_all(
    local_rank: int, workers: int | str, needed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started(monkeypatch, local_rank, processes=2)
    asked: dict[str, Any] = {}
    monkeypatch.setattr(ranks, "gather_facts", lambda **given: asked.update(given))
    options = all_options(tmp_path, image_size=640, batch_size=8, num_workers=workers)
    facts_of(options, tmp_path, is_training=True)
    assert asked["shared_memory_bytes"] == needed  # auto: on a CPU there are no workers


def test_there_is_room_for_four_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(ranks, "gather_facts", lambda **given: asked.update(given))
    facts_of(all_options(tmp_path), tmp_path, is_training=True)
    parameters = sum(p.numel() for p in build_network("yolov5n", 3).parameters())
    assert asked["run_bytes"] == 4 * 12 * parameters  # best, last, last.previous, and the one that is written
