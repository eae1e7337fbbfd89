"""A validation that a run is stopped in is left, and the run that resumes begins with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.run_comparison import assert_equal_runs, contents, curves, rows
from tests.support.stopped_runs import BATCHES, EPOCHS, PARTS, options, signal_at, stopped
from tests.support.stopped_runs import in_an_empty_folder as in_an_empty_folder
from tests.support.stopped_runs import never_stopped as never_stopped
from tests.support.stopped_runs import whole as whole
from yolo_lightning.__main__ import main


def test_a_validation_can_be_left_again_and_again_and_a_finished_run_stays_as_it_is(
    shapes: Path, whole: Path
) -> None:
    arguments = options(shapes, "--run_name=parts", "--ckpt_path=auto")
    for _ in range(3):
        stopped(*arguments, *signal_at("SIGTERM", EPOCHS - 1, -1))
        assert len(rows(PARTS)) == EPOCHS - 1
    main(["fit", *arguments, "--trainer.callbacks=null"])
    assert_equal_runs(whole, PARTS)
    ends = [contents(run)["within_epoch"]["random"]["torch"] for run in (whole, PARTS)]
    assert torch.equal(*ends)  # the loader of a validation draws from it each time
    main(["fit", *arguments, "--trainer.callbacks=null"])
    assert_equal_runs(whole, PARTS)


def test_a_validation_that_was_left_is_gone_back_to_once(
    shapes: Path, never_stopped: Callable[..., Path]
) -> None:
    """The second stop lets a batch be given again, and so begins where the first one did."""
    joint = ("--model.optimizer.joint_loss=true", "--model.optimizer.nominal_batch_size=6",
             "--trainer.val_check_interval=2")  # fmt: skip
    arguments = options(shapes, *joint, "--run_name=parts", "--ckpt_path=auto")
    stopped(*arguments, *signal_at("SIGTERM", 0, 1))
    stopped(*arguments, *signal_at("SIGTERM", 0, 2))
    main(["fit", *arguments, "--trainer.callbacks=null"])
    assert_equal_runs(never_stopped(*joint), PARTS)


@pytest.mark.parametrize("cache", ["none", "disk"])
def test_a_validation_that_was_left_can_be_done_without(cache: str, shapes: Path) -> None:
    arguments = options(shapes, f"--data.cache={cache}", "--run_name=parts")
    stopped(*arguments, *signal_at("SIGTERM", 1, -1))
    unvalidated = ("--trainer.limit_val_batches=0", "--patience=0", "--trainer.callbacks=null")
    main(["fit", "--ckpt_path=last", "--run_name=parts", *unvalidated])
    assert [bool(row["val/map"]) for row in rows(PARTS)] == [True, False, False]
    ends = [epoch * BATCHES + BATCHES - 1 for epoch in range(EPOCHS)]
    assert [step for step, _ in curves(PARTS)["train/box_loss"]] == ends


def test_a_limit_that_is_reached_already_lets_the_validation_that_was_left_come_first(shapes: Path) -> None:
    """Two of five batches a step: with the last one of the second epoch it is the fifth step."""
    arguments = options(shapes, "--run_name=parts")
    stopped(*arguments, *signal_at("SIGTERM", 1, -1))
    assert contents(PARTS)["global_step"] == 5
    limit = ("--trainer.max_steps=5", "--trainer.callbacks=null")
    main(["fit", "--ckpt_path=last", "--run_name=parts", *limit])
    assert [bool(row["val/map"]) for row in rows(PARTS)] == [True, True]
    assert contents(PARTS)["global_step"] == 5


def test_a_time_between_validations(shapes: Path) -> None:
    """None is due in so short a run, and one that was due when it was left is made up for."""
    hourly = ("--trainer.val_check_interval=00:01:00:00", "--trainer.callbacks=null")
    arguments = options(shapes, "--run_name=parts", "--ckpt_path=auto")
    stopped(*arguments, *signal_at("SIGTERM", 1, -1))
    main(["fit", *arguments, *hourly])
    assert [bool(row["val/map"]) for row in rows(PARTS)] == [True, True, False]
