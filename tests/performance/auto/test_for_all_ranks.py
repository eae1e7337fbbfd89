import json
import os
from typing import Any

import pytest

from yolo_lightning.errors import InputError
from yolo_lightning.performance.auto import for_all_ranks as agreement
from yolo_lightning.performance.auto.choose import Choice
from yolo_lightning.performance.auto.for_all_ranks import CHOICE, choose_for_run
from yolo_lightning.performance.doctor.candidates import Candidate, StepShape

SHAPE = StepShape("yolov5n", 2, 64, 2, 16)
MEASURED = Candidate("32-true", False, False)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was measured; the answer is one that no rule gives."""
    calls: list[Any] = []

    def choose(shape: StepShape, *options: Any, **_: Any) -> Choice:
        calls.append((shape, *options))
        return Choice(MEASURED, "measured")

    monkeypatch.setattr(agreement, "choose", choose)
    for name in (CHOICE, "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(CHOICE, "{}")  # so that what the first process sets is taken back
    return calls


def ask(precision: str | None = None, nodes: int = 1) -> Candidate:
    return choose_for_run(SHAPE, precision, "auto", "auto", nodes).candidate


def test_a_process_that_is_started_by_the_first_follows_it(
    measured: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask() == MEASURED
    first = os.getpid()
    monkeypatch.setattr(os, "getppid", lambda: first)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ask() == MEASURED
    assert len(measured) == 1


def test_what_another_run_left_in_the_environment_does_not_count(
    measured: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask()
    told = json.loads(os.environ[CHOICE])
    # Of another process, as where a sweep starts torchrun: all ranks follow the rule.
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert told["process"] != os.getppid()
    assert ask().channels_last
    # For other options.
    monkeypatch.setattr(os, "getppid", lambda: told["process"])
    assert ask("bf16-mixed") == Candidate("bf16-mixed", True, False)


@pytest.mark.parametrize(("variable", "nodes"), [("WORLD_SIZE", 1), ("SLURM_NTASKS", 1), (None, 2)])
def test_processes_side_by_side_do_not_measure(
    measured: list[Any], monkeypatch: pytest.MonkeyPatch, variable: str | None, nodes: int
) -> None:
    if variable:
        monkeypatch.setenv(variable, "4")
    choice = choose_for_run(SHAPE, "32-true", "auto", "auto", nodes)
    assert choice.candidate == Candidate("32-true", True, False)
    assert "so that all processes choose alike" in choice.reason
    assert not measured


def test_failing_to_measure_ends_no_run(measured: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Choice:
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setattr(agreement, "choose", fail)
    choice = choose_for_run(SHAPE, "32-true", "auto", "auto")
    assert choice.candidate == Candidate("32-true", True, False)
    assert choice.reason.endswith("could not be measured (RuntimeError: no such kernel)")
    with pytest.raises(InputError, match="precision 64"):
        choose_for_run(SHAPE, "64", "auto", "auto")
