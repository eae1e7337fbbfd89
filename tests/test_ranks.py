from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace
from lightning.pytorch.plugins.environments import SLURMEnvironment

from yolo_lightning.errors import InputError
from yolo_lightning.ranks import _environment, facts_of, meet


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


def test_facts_name_what_a_rank_does_not_see(tmp_path: Path) -> None:
    paths = {
        f"{split}_{kind}": None for split in ("train", "val", "test") for kind in ("annotations", "images")
    }
    options = Namespace(
        data=Namespace(root=str(tmp_path / "away"), **paths),
        model=Namespace(architecture="yolov5n", num_classes=3),
        ckpt_path=None,
        runs_dir=str(tmp_path),
    )
    facts = facts_of(options, tmp_path, is_training=True)
    [problem] = facts.problems
    assert "away" in problem and "data.root" in problem
    assert facts.values["option"]["model.architecture"] == "yolov5n"
    assert not any("root" in name or "runs_dir" in name for name in facts.values["option"])
