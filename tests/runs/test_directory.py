from pathlib import Path

import pytest

from yolo_lightning.errors import InputError
from yolo_lightning.runs.directory import (
    claim_run_directory,
    find_checkpoint,
    read_metrics,
    run_directory_of,
    with_run_config,
)
from yolo_lightning.runs.run_config import run_options


def test_versions_count_up_and_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (claim_run_directory("runs", "fit") for _ in range(2))
    assert (first, second) == (tmp_path / "runs/fit/version_0", tmp_path / "runs/fit/version_1")
    assert first.is_dir() and second.is_dir()


def test_a_gap_is_not_filled(tmp_path: Path) -> None:
    (tmp_path / "fit" / "version_7").mkdir(parents=True)
    assert claim_run_directory(tmp_path, "fit").name == "version_8"


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(InputError, match="--runs_dir"):
        claim_run_directory(tmp_path / "runs", "fit")


def test_last_means_the_newest_run_that_has_one(tmp_path: Path) -> None:
    for version in (2, 10):
        path = tmp_path / "fit" / f"version_{version}" / "checkpoints"
        path.mkdir(parents=True)
        (path / "last.ckpt").write_text("")
    (tmp_path / "fit" / "version_11").mkdir()
    expected = tmp_path / "fit" / "version_10" / "checkpoints" / "last.ckpt"
    assert find_checkpoint("last", tmp_path, "fit") == expected
    assert find_checkpoint(str(expected), "elsewhere", "other") == expected
    with pytest.raises(InputError, match=r"best\.ckpt"):
        find_checkpoint("best", tmp_path, "fit")
    with pytest.raises(InputError, match="no such file"):
        find_checkpoint("nowhere.ckpt", tmp_path, "fit")


def test_a_checkpoint_belongs_to_the_run_around_it(tmp_path: Path) -> None:
    checkpoint = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    assert run_directory_of(checkpoint) is None
    (tmp_path / "version_0" / "config.yaml").write_text("")
    assert run_directory_of(checkpoint) == tmp_path / "version_0"
    assert run_directory_of(tmp_path / "version_0" / "best.ckpt") is None


def test_the_config_of_the_run_comes_before_the_options(tmp_path: Path) -> None:
    run = tmp_path / "mine" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").write_text("")
    (run / "config.yaml").write_text("")
    given = ["--ckpt_path=last", "--run_name", "mine", f"--runs_dir={tmp_path}", "--trainer.max_epochs", "9"]
    config = ["--config", run_options(run, [])]
    assert with_run_config(["fit", *given]) == ["fit", *config, *given]
    alone = ["--run_name=null", "--trainer.num_nodes=1", "--trainer.devices=1"]
    # Predictions do not go among the trainings of that name, nor on all its nodes, unless that is asked for.
    assert with_run_config(["validate", *given]) == ["validate", *config, *alone, *given]
    # They take the precision of this machine, as the detector does.
    precision = "--trainer.precision=null"
    assert with_run_config(["predict", *given]) == ["predict", *config, precision, *alone, *given]


def test_options_stay_as_they_are_without_a_run(tmp_path: Path) -> None:
    assert with_run_config(["fit", "--data.root", "x"]) == ["fit", "--data.root", "x"]
    moved = tmp_path / "best.ckpt"
    moved.write_text("")
    assert with_run_config(["fit", "--ckpt_path", str(moved)]) == ["fit", "--ckpt_path", str(moved)]
    with pytest.raises(InputError, match=r"best\.ckpt: is damaged"):
        with_run_config(["test", "--ckpt_path", str(moved)])


def test_the_name_of_the_run_can_stand_in_a_config(tmp_path: Path) -> None:
    run = tmp_path / "mine" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").write_text("")
    (run / "config.yaml").write_text("")
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"run_name: mine\nruns_dir: {tmp_path}\n")
    given = ["--config", str(mine), "--ckpt_path", "last"]
    assert with_run_config(["fit", *given]) == ["fit", "--config", run_options(run, []), *given]
    mine.write_text(f"run_name: mine\nruns_dir: {tmp_path}\nckpt_path: last\n")
    assert with_run_config(["fit", *given[:2]]) == ["fit", "--config", run_options(run, []), *given[:2]]
    anew = ["fit", *given[:2], "--ckpt_path", "null"]
    assert with_run_config(anew) == anew


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.csv") == []


def test_a_home_folder_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves ``~`` after ``--option=`` as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "runs" / "mine" / "version_0"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.write_text("")
    (tmp_path / "my.yaml").write_text("runs_dir: ~/runs\nrun_name: mine\n")
    assert find_checkpoint("last", "~/runs", "mine") == checkpoint
    assert find_checkpoint("~/runs/mine/version_0/checkpoints/last.ckpt", "runs", "fit") == checkpoint
    argv = ["fit", "--config=~/my.yaml", "--ckpt_path=last"]
    assert with_run_config(argv)[1:3] == ["--config", run_options(folder, [])]
