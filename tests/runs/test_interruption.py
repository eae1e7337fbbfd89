"""Runs that are stopped in the middle of an epoch go on as if they had not been."""

from __future__ import annotations

import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from tests.support.run_comparison import assert_equal_runs, contents, rows
from tests.support.stopped_runs import BATCHES, EPOCHS, PARTS, options, signal_at, stopped
from tests.support.stopped_runs import in_an_empty_folder as in_an_empty_folder
from tests.support.stopped_runs import never_stopped as never_stopped
from tests.support.stopped_runs import whole as whole
from yolo_lightning.__main__ import main
from yolo_lightning.runs.interruption import Interruption


@pytest.mark.parametrize(
    ("epoch", "batch", "more"),
    [
        (1, 2, ()),
        (1, 3, ("--data.cache=none", "--data.num_workers=1")),
        (2, 3, ("--data.cache=none",)),
        (1, BATCHES - 1, ()),
        (1, -1, ()),
    ],
)
def test_a_run_that_is_stopped_anywhere_ends_with_the_weights_of_one_that_is_not(
    epoch: int,
    batch: int,
    more: tuple[str, ...],
    shapes: Path,
    whole: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopped(*options(shapes, "--run_name=parts", *signal_at("SIGTERM", epoch, batch), *more))
    saved_as = Path.cwd() / PARTS / "checkpoints/last.ckpt"
    assert f"resume with   yolo-lightning fit --ckpt_path {saved_as}" in caplog.text
    saved = contents(PARTS)["loops"]["fit_loop"]
    assert saved["epoch_progress"]["current"]["processed"] == epoch
    assert saved["epoch_loop.batch_progress"]["current"]["processed"] == batch % BATCHES + 1
    assert len(rows(PARTS)) == epoch  # the validation at the end is aborted
    main(["fit", "--ckpt_path=last", "--run_name=parts", "--trainer.callbacks=null"])
    assert_equal_runs(whole, PARTS)


def test_stopped_at_every_batch(shapes: Path, whole: Path) -> None:
    """Each time the newest checkpoint is found without being named."""
    arguments = options(shapes, "--run_name=parts", "--ckpt_path=auto")
    for number in range(EPOCHS * BATCHES):
        stopped(*arguments, *signal_at("SIGUSR1", *divmod(number, BATCHES)))
        progress = contents(PARTS)["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        assert progress["total"]["ready"] == number + 1
    main(["fit", *arguments, "--trainer.callbacks=null"])
    assert_equal_runs(whole, PARTS)
    assert [path.name for path in Path("runs/parts").iterdir()] == ["version_0"]


def test_processes_side_by_side_are_not_told_to_resume_one_alone(tmp_path: Path) -> None:
    """It would wait for the others."""
    path = tmp_path / "last.ckpt"
    path.touch()
    strategy = SimpleNamespace(launcher=None)
    told = [
        Interruption(path, 0.0)._how_to_go_on(cast(Trainer, SimpleNamespace(world_size=n, strategy=strategy)))
        for n in (1, 2)
    ]
    assert told == [
        f"resume with   yolo-lightning fit --ckpt_path {path}",
        f"resume with what started these 2 processes, and --ckpt_path {path}",
    ]


def test_handlers_are_those_of_before_when_the_run_has_ended(shapes: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    stopped(*options(shapes, *signal_at("SIGINT", 0, 1)))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before


@pytest.mark.parametrize(
    ("limit", "no_limit"),
    [
        ("--trainer.max_steps=7", "--trainer.max_steps=-1"),
        ("--trainer.max_time=00:00:00:14", "--trainer.max_time=01:00:00:00"),
    ],
)
def test_a_limit_saves_where_it_stops(
    limit: str, no_limit: str, shapes: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = count()
    monkeypatch.setattr(Timer, "time_elapsed", lambda *_: float(next(looks)))  # a second a look
    main(["fit", *options(shapes, "--run_name=parts", limit)])
    loop = contents(PARTS)["loops"]["fit_loop"]
    assert loop["epoch_progress"]["current"]["processed"] < EPOCHS
    assert 0 < loop["epoch_loop.batch_progress"]["current"]["processed"] < BATCHES
    main(["fit", "--ckpt_path=last", "--run_name=parts", no_limit])
    assert_equal_runs(whole, PARTS)


def test_patience_ends_training_and_is_kept_by_a_resumption(
    shapes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With such a learning rate val/map never gets above the 0 of the first epoch."""
    learns_nothing = ("--model.optimizer.learning_rate=1e-9", "--trainer.max_epochs=9", "--patience=3")
    stopped(*options(shapes, "--run_name=parts", *learns_nothing, *signal_at("SIGTERM", 2, 1)))
    main(["fit", "--ckpt_path=last", "--run_name=parts", "--trainer.callbacks=null"])
    assert len(rows(PARTS)) == 4  # the first and three that are no better, one of them after the resumption
    said = "val/map has not improved for 3 validations (--patience)"
    assert said in caplog.text
    caplog.clear()
    main(["fit", "--ckpt_path=last", "--run_name=parts"])
    assert len(rows(PARTS)) == 4 and said in caplog.text  # what has ended so stays as it is


def test_gradients_that_wait_for_their_step_outlive_a_validation(shapes: Path, whole: Path) -> None:
    """Five batches an epoch, two a step: with and without validations the weights are the same."""
    main(["fit", *options(shapes, "--run_name=parts", "--trainer.limit_val_batches=0", "--patience=0")])
    validated, unvalidated = (contents(run)["live_state_dict"] for run in (whole, PARTS))
    assert [name for name, value in validated.items() if not torch.equal(value, unvalidated[name])] == []


@pytest.mark.parametrize("place", [(0, 1), (1, 2), (1, 3)])
def test_with_validations_within_an_epoch(
    place: tuple[int, int], shapes: Path, never_stopped: Callable[..., Path]
) -> None:
    """After the second and the fourth of five batches; a stop there leaves the validation for later."""
    more = "--trainer.val_check_interval=2"
    stopped(*options(shapes, more, "--run_name=parts", *signal_at("SIGTERM", *place)))
    main(["fit", "--ckpt_path=last", "--run_name=parts", "--trainer.callbacks=null"])
    assert_equal_runs(never_stopped(more), PARTS)


def test_a_limit_on_steps_saves_after_the_validation_that_was_due_there(
    shapes: Path, never_stopped: Callable[..., Path]
) -> None:
    """The first step comes with the second batch, after which there is a validation."""
    more = "--trainer.val_check_interval=2"
    main(["fit", *options(shapes, more, "--run_name=parts", "--trainer.max_steps=1")])
    main(["fit", "--ckpt_path=last", "--run_name=parts", "--trainer.max_steps=-1"])
    assert_equal_runs(never_stopped(more), PARTS, cut_at=1)


def test_the_recipe_of_the_run_that_resumes_counts(shapes: Path) -> None:
    stopped(*options(shapes, "--run_name=parts", *signal_at("SIGTERM", 1, 2)))
    decay = contents(PARTS)["optimizer_states"][0]["param_groups"][1]["weight_decay"]
    assert decay == pytest.approx(0.0005)
    recipe = ("--data.batch_size=8", "--model.optimizer.weight_decay=0.25")
    main(["fit", "--ckpt_path=last", "--run_name=parts", "--trainer.callbacks=null", *recipe])
    groups = contents(PARTS)["optimizer_states"][0]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0, 0.5, 0]  # for 8 images a step instead of 4


@pytest.mark.parametrize(
    ("place", "seen", "more"),
    [
        ((1, 0), 0, ()),  # the first of three batches of a step
        ((1, 1), 0, ("--data.cache=none",)),  # the second
        (
            (0, 2),
            4,
            ("--trainer.val_check_interval=2", "--data.cache=none"),
        ),  # a validation cut the step before
    ],
)
def test_batches_that_wait_for_a_joint_loss_are_given_again(
    place: tuple[int, int],
    seen: int,
    more: tuple[str, ...],
    shapes: Path,
    never_stopped: Callable[..., Path],
) -> None:
    joint = ("--model.optimizer.joint_loss=true", "--model.optimizer.nominal_batch_size=6", *more)
    stopped(*options(shapes, *joint, "--run_name=parts", *signal_at("SIGTERM", *place)))
    [loader] = contents(PARTS)["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert loader["seen"] == seen
    main(["fit", "--ckpt_path=last", "--run_name=parts", "--trainer.callbacks=null"])
    assert_equal_runs(never_stopped(*joint), PARTS)


@pytest.mark.parametrize("more", ["--trainer.max_steps=1000", "--trainer.overfit_batches=3"])
@pytest.mark.parametrize("place", [(0, 1), (0, -1)])
def test_with_limits_that_change_how_lightning_loops(
    more: str, place: tuple[int, int], shapes: Path, never_stopped: Callable[..., Path]
) -> None:
    stopped(*options(shapes, more, "--run_name=parts", *signal_at("SIGTERM", *place)))
    main(["fit", "--ckpt_path=last", "--run_name=parts", "--trainer.callbacks=null"])
    assert_equal_runs(never_stopped(more), PARTS)


def test_patience_within_an_epoch_saves_and_can_be_raised(
    shapes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learns_nothing = ("--model.optimizer.learning_rate=1e-9", "--trainer.val_check_interval=2")
    main(["fit", *options(shapes, "--run_name=parts", "--patience=1", *learns_nothing)])
    progress = contents(PARTS)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert progress["processed"] == 4  # the second validation is no better than the first
    assert "val/map has not improved for 1 validations (--patience)" in caplog.text
    main(["fit", "--ckpt_path=last", "--run_name=parts", "--patience=50"])
    assert [row["epoch"] for row in rows(PARTS)] == ["0", "1", "2"]


def test_nothing_is_evaluated_where_no_checkpoint_is(
    shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["validate", "--data.root", str(shapes), "--ckpt_path=auto"])
    assert exit_.value.code == 2
    assert "no run of 'fit'" in capsys.readouterr().err
