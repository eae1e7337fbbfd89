from __future__ import annotations

import os
from typing import Any

import pytest
from jsonargparse import Namespace

from yolo_lightning.distributed.joining import Launch, address_origin, find_launch, join, launched_by_hand
from yolo_lightning.errors import InputError

STARTED = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "NODE_RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "1234",
}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("SLURM_", "TORCHELASTIC_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_")
    for name in [name for name in os.environ if name.startswith(names)]:
        monkeypatch.delenv(name)


def config(**trainer: Any) -> Namespace:
    given = {"accelerator": "cpu", "devices": "auto", "num_nodes": 1, **trainer}
    return Namespace(trainer=Namespace(**given))


def test_a_process_alone_meets_nobody() -> None:
    assert find_launch(config(devices=2)) is None  # Lightning starts the other one
    assert join(find_launch(config()), timeout_s=5).world_size == 1


def test_tasks_of_slurm_meet_if_they_are_the_processes_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    with pytest.raises(InputError, match="give --ntasks-per-node"):
        find_launch(config(devices=2, num_nodes=2))
    task = {"NTASKS_PER_NODE": 2, "PROCID": 3, "LOCALID": 1}
    for name, value in task.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "15007")
    assert find_launch(config(devices=2, num_nodes=2)) == Launch(3, 4, "15007", 15007)
    assert find_launch(config()) is None  # in the batch script, srun has started nothing yet
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    with pytest.raises(InputError, match=r"Slurm started 4 tasks.*are 2 processes"):
        find_launch(config(devices=2))


def test_processes_that_somebody_started_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RANK": 1,
        "LOCAL_RANK": 1,
        "WORLD_SIZE": 2,
        "MASTER_ADDR": "h",
        "MASTER_PORT": 5,
    }.items():
        monkeypatch.setenv(name, str(value))
    assert find_launch(config(devices=2)) == Launch(1, 2, "h", 5)


def test_processes_that_were_started_by_hand() -> None:
    assert launched_by_hand(STARTED, devices=2) == Launch(3, 4, "a", 1234)


@pytest.mark.parametrize("absent", ["RANK", "LOCAL_RANK", "WORLD_SIZE"])
def test_processes_that_nobody_numbered(absent: str) -> None:
    assert launched_by_hand({k: v for k, v in STARTED.items() if k != absent}, devices=2) is None
    assert launched_by_hand({**STARTED, "WORLD_SIZE": "1"}, devices=2) is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"MASTER_PORT": ""}, "MASTER_PORT is not set"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http'; set it to a whole number"),
        ({"RANK": "abc"}, "RANK is 'abc'; set it to a whole number"),
        ({"RANK": "2"}, r"RANK is 2, but node 1 x 2 devices \+ LOCAL_RANK 1 is 3"),
        ({"WORLD_SIZE": "2"}, "RANK is 3 and WORLD_SIZE 2; ranks are counted from 0 to 1"),
    ],
)
def test_numbers_that_contradict_each_other(change: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        launched_by_hand({**STARTED, **change}, devices=2)


@pytest.mark.parametrize(
    ("variables", "origin", "remedy"),
    [
        ({"MASTER_ADDR": "a", "TORCHELASTIC_RUN_ID": "1"}, "MASTER_ADDR, from torchrun", "--local-addr"),
        ({"MASTER_ADDR": "a", "SLURM_NODELIST": "a,b"}, "MASTER_ADDR", "set MASTER_ADDR"),
        ({"SLURM_JOB_NODELIST": "a,b"}, "the first name of SLURM_JOB_NODELIST", "IP address of that node"),
    ],
)
def test_where_the_address_comes_from(variables: dict[str, str], origin: str, remedy: str) -> None:
    found, advice = address_origin(variables)
    assert found == origin
    assert remedy in advice
