"""Runs that diverge: what is saved is finite, the batch is named, and the rest is the run without it."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.diverging import callback
from tests.support.processes import run
from tests.support.run_comparison import assert_equal_runs, contents
from tests.support.small_network import write_small_yaml
from tests.support.stopped_runs import options
from yolo_lightning.__main__ import main
from yolo_lightning.cli.replay import run_replay
from yolo_lightning.errors import InputError
from yolo_lightning.model.network import build_network
from yolo_lightning.runs import divergence
from yolo_lightning.runs.checkpoint_io import RunCheckpointIO
from yolo_lightning.runs.snapshot import tensors_in
from yolo_lightning.training.divergence import is_finite

Places = list[list[int]]
BATCHES = 5  # of an epoch; an optimizer step takes two


@pytest.fixture(autouse=True)
def saves_are_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every checkpoint of these runs has finite weights, averages and momentum."""
    save = RunCheckpointIO.save_checkpoint

    def check(self: RunCheckpointIO, checkpoint: dict[str, Any], *more: Any, **options: Any) -> None:
        kept = [checkpoint[key] for key in ("state_dict", "live_state_dict", "optimizer_states")]
        assert is_finite(tensors_in(kept))
        save(self, checkpoint, *more, **options)

    monkeypatch.setattr(RunCheckpointIO, "save_checkpoint", check)


def arguments(shapes: Path, folder: Path, name: str, *more: str) -> list[str]:
    network = write_small_yaml(folder, anchors=True)
    own = (f"--runs_dir={folder}", f"--run_name={name}", f"--model.architecture={network}")
    return ["fit", *options(shapes, *own, *more)]


def fit(shapes: Path, folder: Path, name: str, *more: str) -> Path:
    main(arguments(shapes, folder, name, *more))
    return folder / name / "version_0"


def left_out(run_: Path) -> Places:
    places: Places = contents(run_)["callbacks"]["Divergence"]["left_out"]
    return places


def test_after_twenty_divergences_a_run_is_the_one_without_these_batches(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(divergence, "_MOST_EVENTS", 100)
    drawn = random.Random(1).sample([[e, b] for e in range(8) for b in range(BATCHES)], 20)
    kinds = {"images": drawn[:7], "labels": drawn[7:13], "steps": drawn[13:]}
    more = ("--trainer.max_epochs=8", "--model.optimizer.nominal_batch_size=2")  # each batch has a step
    diverged = fit(shapes, tmp_path, "diverged", *more, callback("Poison", **kinds))
    told = capsys.readouterr().out
    assert told.count("pixels of 1 of its images are not finite") == 7
    assert told.count("labels of 1 of its images are not finite") == 6
    assert told.count("the optimizer's step (learning rate 1e+09)") == 7
    assert left_out(diverged) == sorted(drawn)
    whole = fit(shapes, tmp_path, "whole", *more, callback("LeaveOut", places=drawn))
    assert_equal_runs(whole, diverged)


@pytest.mark.parametrize(
    ("kind", "spoilt", "expected", "more"),
    [
        # The images of a batch that is left out are no partners in mosaics, also after a resume.
        ("images", [[0, 1], [0, 3]], [[0, 1], [0, 3]], ("--checkpoint_minutes=0.00001",)),
        # All batches that a step summed.
        ("steps", [[0, 3]], [[0, 2], [0, 3]], ("--data.num_workers=1",)),
        # All batches of a joint loss.
        (
            "images", [[1, 1]], [[1, 0], [1, 1], [1, 2]],
            ("--model.optimizer.joint_loss=true", "--model.optimizer.nominal_batch_size=6"),
        ),
    ],
)  # fmt: skip
def test_all_batches_to_blame_are_left_out(
    kind: str, spoilt: Places, expected: Places, more: tuple[str, ...], shapes: Path, tmp_path: Path
) -> None:
    diverged = fit(shapes, tmp_path, "diverged", callback("Poison", **{kind: spoilt}), *more)
    places = left_out(diverged)
    assert places == expected
    assert_equal_runs(
        fit(shapes, tmp_path, "whole", callback("LeaveOut", places=places), *more[:2]), diverged
    )
    budget = json.loads((diverged / "time_budget.json").read_text())
    assert budget["wall_seconds"] == pytest.approx(sum(budget["seconds"].values()), rel=0.01)


def test_a_step_that_only_the_next_batch_shows_is_found(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "_GROWTH", math.inf)  # no weight is too large
    diverged = fit(shapes, tmp_path, "diverged", callback("Poison", steps=[[1, 2]]))
    assert left_out(diverged) == [[1, 1], [1, 2]]
    assert_equal_runs(fit(shapes, tmp_path, "whole", callback("LeaveOut", places=[[1, 1], [1, 2]])), diverged)


def test_what_does_not_repeat_leaves_nothing_out(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    diverged = fit(shapes, tmp_path, "diverged", callback("Poison", images=[[1, 2]], once=True))
    assert "batch 5 of epoch 2: passed without a divergence this time" in capsys.readouterr().out
    assert left_out(diverged) == []


def test_without_checkpoints_the_first_divergence_ends_the_run(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        fit(
            shapes, tmp_path, "none", "--trainer.enable_checkpointing=false",
            callback("Poison", labels=[[0, 1]]),
        )  # fmt: skip
    assert exit_.value.code == 2
    assert "set --trainer.enable_checkpointing true" in capsys.readouterr().err


def test_the_third_divergence_ends_the_run_and_names_the_learning_rate(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = ("--model.optimizer.learning_rate=1e9", "--model.optimizer.warmup_epochs=3")
    with pytest.raises(SystemExit) as exit_:
        fit(shapes, tmp_path, "fast", *rate)
    assert exit_.value.code == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "diverged 3 times" in sentence and "lower --model.optimizer.learning_rate (now 1e+09)" in sentence
    last = tmp_path / "fast" / "version_0" / "checkpoints" / "last.ckpt"
    more = ("--model.optimizer.learning_rate=0.01", "--model.optimizer.warmup_epochs=0")
    main(["fit", f"--ckpt_path={last}", *more])
    assert contents(last.parents[1])["epoch"] == 2


def test_a_saved_batch_is_replayed(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    poison = callback("Poison", images=[[0, 1]], steps=[[1, 3]])
    folder = fit(shapes, tmp_path, "diverged", poison, "--trainer.max_epochs=2") / "divergence"
    first, second = sorted(folder.glob("*.pt"))
    report = first.with_suffix(".txt").read_text()
    assert report.count("image: ") == 1 and "images/train/" in report
    main(["replay", str(first)])
    told = capsys.readouterr().out
    assert report.splitlines()[0] in told
    assert "now on cpu: pixels of 1 of its images are not finite" in told
    assert "first layer that is not finite: model.0.conv" in told
    diagnosis = run_replay([str(second)])
    assert diagnosis is not None and diagnosis.part == "loss"
    with pytest.raises(InputError, match="give a file of RUN"):
        run_replay([str(first.with_suffix(".txt"))])
    hostile = torch.load(first, weights_only=True)
    hostile["hyper_parameters"]["architecture"] = str(tmp_path / "small.yaml")
    torch.save(hostile, first)
    with pytest.raises(InputError, match="a path in a checkpoint is not opened"):
        run_replay([str(first)])


def test_two_processes_find_the_batch_of_one_of_them(shapes: Path, tmp_path: Path) -> None:
    ranks = ("--data.batch_size=1", "--trainer.devices=2", "--trainer.strategy=ddp")
    poison = callback("Poison", images=[[0, 3]], labels=[[1, 1]], rank=1)
    statuses, told = run(arguments(shapes, tmp_path, "goes_on", poison, *ranks), ranks=2)
    assert statuses == [0, 0], told[-3000:]
    assert "pixels of 1 of its images are not finite" in told
    assert told.count("labels of 1 of its images are not finite") == 1
    diverged = tmp_path / "goes_on" / "version_0"
    assert left_out(diverged) == [[0, 3], [1, 1]]
    leave_out = callback("LeaveOut", places=left_out(diverged))
    statuses, told = run(arguments(shapes, tmp_path, "whole", leave_out, *ranks), ranks=2)
    assert statuses == [0, 0], told[-3000:]
    assert_equal_runs(tmp_path / "whole" / "version_0", diverged)


def test_initial_statistics_that_are_not_finite_are_refused(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = build_network(write_small_yaml(tmp_path, anchors=True), 3)
    state = network.state_dict()
    next(value for name, value in state.items() if name.endswith("running_var"))[0] = math.nan
    torch.save(state, tmp_path / "diverged.pt")
    with pytest.raises(SystemExit) as exit_:
        fit(shapes, tmp_path, "refused", f"--model.weights={tmp_path / 'diverged.pt'}")
    assert exit_.value.code == 2
    assert "the initial weights are not finite; give other --model.weights" in capsys.readouterr().err
