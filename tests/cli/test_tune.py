from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import yaml

from yolo_lightning.cli.tune import Trials, open_study, run_tune
from yolo_lightning.cli.tune_space import Values
from yolo_lightning.errors import InputError
from yolo_lightning.system.files import is_alive

optuna = pytest.importorskip("optuna")

MOMENTUM = "model.optimizer.momentum"
SPACE = {MOMENTUM: Values(0.9, (), 0.8, 0.95)}


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replaces the program of a fit by lines of Python, which have ``row(epoch, map)`` and ``momentum``."""
    begin = f"""\
        import pathlib, signal, sys, time
        options = dict(option.split("=", 1) for option in sys.argv[1:] if "=" in option)
        momentum = float(options["--{MOMENTUM}"])
        run = pathlib.Path(options["--runs_dir"], options["--run_name"], "version_0")
        run.mkdir(parents=True)
        rows = ["epoch,val/map"]
        def row(epoch, value):
            rows.append(f"{{epoch}},{{value}}")
            (run / "new").write_text("\\n".join(rows))
            (run / "new").rename(run / "metrics.csv")
        """

    def replace(program: str) -> None:
        script = tmp_path / "python"
        script.write_text(f"#!{sys.executable}\n{textwrap.dedent(begin)}{textwrap.dedent(program)}")
        script.chmod(0o700)
        monkeypatch.setattr("yolo_lightning.cli.tune.sys.executable", str(script))

    monkeypatch.setattr("yolo_lightning.cli.tune._POLL_S", 0.05)
    return replace


def states(study: Any) -> list[str]:
    return [trial.state.name for trial in study.trials]


def test_a_trial_is_as_good_as_its_best_epoch(tmp_path: Path, fit: Callable[[str], None]) -> None:
    fit("row(0, 0.2)\nrow(1, momentum)\nrow(2, 0.1)")
    study = open_study(tmp_path / "study", [], 3, SPACE)
    study.optimize(Trials(tmp_path / "study", [], 3, SPACE), n_trials=2)
    assert study.trials[0].params == {MOMENTUM: 0.9} and study.trials[0].value == 0.9
    assert study.trials[1].value == study.trials[1].params[MOMENTUM] != 0.9


def test_a_trial_below_the_median_ends_early(tmp_path: Path, fit: Callable[[str], None]) -> None:
    fit(
        """\
        folder = run.parent.parent
        signal.signal(signal.SIGTERM, lambda *_: ((folder / "asked").touch(), sys.exit(75)))
        good = momentum == 0.9
        row(0, 0.4 if good else 0.1)
        row(1, 0.5 if good else 0.2)
        if not good:
            time.sleep(30)
        row(2, 0.6)
        """
    )
    study = open_study(tmp_path / "study", [], 3, SPACE)
    for _ in range(5):  # the pruner compares with five
        study.enqueue_trial({MOMENTUM: 0.9})
    study.enqueue_trial({MOMENTUM: 0.8})
    study.optimize(Trials(tmp_path / "study", [], 3, SPACE), n_trials=7)
    assert states(study) == ["COMPLETE"] * 6 + ["PRUNED"]
    assert study.trials[-1].intermediate_values == {0: 0.1, 1: 0.2}
    assert (tmp_path / "study" / "asked").exists()


def test_a_trial_that_fails_does_not_end_the_study(
    tmp_path: Path, shapes: Path, fit: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fit("row(0, 0.5)\nif momentum != 0.9: sys.exit('no memory')")
    space = tmp_path / "space.yaml"
    space.write_text(f"{MOMENTUM}: [0.8, 0.95]")
    run_tune([
        "--trials", "2", "--epochs", "1", "--space", str(space), "--study", str(tmp_path / "study"),
        f"--{MOMENTUM}", "0.9", "--data.root", str(shapes), "--data.image_size", "64",
        "--data.cache", "none", "--trainer.accelerator", "cpu",
    ])  # fmt: skip
    said = capsys.readouterr().out
    assert "trial 1: failed with status 1" in said and "0.5000 with the options as given" in said
    assert (tmp_path / "study" / "trial-1" / "output.txt").read_text() == "no memory\n"
    study = optuna.load_study(study_name="tune", storage=f"sqlite:///{tmp_path}/study/study.db")
    assert states(study) == ["COMPLETE", "FAIL"]


def test_the_style_of_later_pictures_is_kept(
    tmp_path: Path, shapes: Path, fit: Callable[[str], None]
) -> None:
    """Optuna's plots set matplotlib's style for the whole process."""
    fit("row(0, momentum)")
    before = dict(matplotlib.rcParams)
    run_tune([
        "--trials", "1", "--epochs", "1", "--study", str(tmp_path / "study"), f"--{MOMENTUM}", "0.9",
        "--data.root", str(shapes), "--data.image_size", "64", "--trainer.accelerator", "cpu",
    ])  # fmt: skip
    assert {key: before[key] for key in before if before[key] != matplotlib.rcParams[key]} == {}


def test_options_with_which_nothing_can_be_trained(tmp_path: Path, fit: Callable[[str], None]) -> None:
    fit("sys.exit('error: no image')")
    study = open_study(tmp_path / "study", [], 3, SPACE)
    with pytest.raises(InputError, match="with the options as given fails: error: no image"):
        study.optimize(Trials(tmp_path / "study", [], 3, SPACE), n_trials=5)
    assert states(study) == ["FAIL", "WAITING"]  # it is begun again when the reason is gone


def test_ctrl_c_ends_the_trial_which_is_begun_again(
    tmp_path: Path, fit: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    fit("time.sleep(30)")
    study = open_study(tmp_path / "study", [], 3, SPACE)
    monkeypatch.setattr("yolo_lightning.cli.tune.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        study.optimize(Trials(tmp_path / "study", [], 3, SPACE), n_trials=1)
    assert states(study) == ["FAIL", "WAITING"]
    first, again = study.trials
    assert again.system_attrs["fixed_params"] == first.params and again.user_attrs == first.user_attrs


def test_optuna_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"install it: pip install yolo-lightning\[tune\]"):
        run_tune([])


def test_a_folder_that_cannot_hold_a_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--study .*file: File exists; give a folder"):
        open_study(tmp_path / "file", [], 3, SPACE)


def test_the_monitor_is_the_value_of_a_trial(
    tmp_path: Path, shapes: Path, fit: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fit("rows[0] += ',val/fitness'\nrow(0, '0.2,0.7')\nrow(1, '0.3,0.6')")
    space = tmp_path / "space.yaml"
    space.write_text(f"{MOMENTUM}: [0.8, 0.95]")
    command = [
        "--trials", "1", "--epochs", "2", "--space", str(space), "--study", str(tmp_path / "study"),
        "--data.root", str(shapes), "--data.image_size", "64", "--data.cache", "none",
        "--trainer.accelerator", "cpu",
    ]  # fmt: skip
    run_tune([*command, "--monitor", "fitness"])
    assert "best val/fitness 0.7000 in trial 0" in capsys.readouterr().out
    assert (tmp_path / "study" / "best.yaml").read_text().startswith("# val/fitness 0.7000 in trial 0 of")
    with pytest.raises(InputError, match="varies the gains of the loss, so val/loss is no measure"):
        run_tune([*command, "--monitor", "val/loss"])


def test_a_study_keeps_its_options(tmp_path: Path) -> None:
    open_study(tmp_path / "study", ["--data.root=a"], 3, SPACE)
    open_study(tmp_path / "study", ["--data.root=a"], 3, SPACE)
    with pytest.raises(InputError, match=r"made with other options \(--data.root=a --epochs=3\)"):
        open_study(tmp_path / "study", ["--data.root=b"], 3, SPACE)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--trials", "0"], "--trials is 0; give a number above 0"),
        (["--epochs", "x"], "invalid int value: 'x'"),
        (["--timeout", "nan"], "--timeout is nan"),
        (["--run_name", "a"], "tune sets --run_name for each trial; leave it out"),
        (["--trainer.max_epochs=3"], "tune sets --trainer.max_epochs"),
        (["--space", "missing.yaml"], "data.root is not set"),
    ],
)
def test_wrong_options(options: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        run_tune(options)


@pytest.mark.slow
def test_a_killed_study_goes_on_in_two_processes(tmp_path: Path, shapes: Path) -> None:
    folder = tmp_path / "study"
    command = [
        sys.executable, "-m", "yolo_lightning", "tune", "--trials", "2", "--epochs", "1",
        "--study", str(folder), "--data.root", str(shapes), "--data.image_size", "64",
        "--data.batch_size", "8", "--data.num_workers", "0", "--data.cache", "none",
        "--trainer.accelerator", "cpu", "--model.compile", "false",
    ]  # fmt: skip
    killed = subprocess.Popen(command)
    while not (folder / "trial-0" / "version_0").exists():
        assert killed.poll() is None
        time.sleep(0.1)
    (training,) = map(int, Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split())
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    while is_alive(training):  # it ends with the process that watches it
        time.sleep(0.1)
    with sqlite3.connect(folder / "study.db") as database:  # let the time pass after which it counts as dead
        database.execute("UPDATE trial_heartbeats SET heartbeat = '2000-01-01 00:00:00'")
    database.close()
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    study = optuna.load_study(study_name="tune", storage=f"sqlite:///{folder}/study.db")
    first, again, *others = study.trials
    assert first.state.name == "FAIL" and again.params == first.params and len(others) in (1, 2)
    assert set(states(study)[1:]) == {"COMPLETE"}
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["model"]["augmentation"]["mosaic"] == study.best_trial.params["model.augmentation.mosaic"]
    assert (folder / "history.png").stat().st_size > 1000 and (folder / "importances.png").exists()
    assert Counter(f"best val/map {study.best_value:.4f}" in each for each in said) == {True: 2}


def test_a_damaged_study_is_one_sentence(tmp_path: Path) -> None:
    open_study(tmp_path, [], 3, SPACE)
    whole = (tmp_path / "study.db").read_bytes()
    for damaged in (b"something else", whole[:4096], whole[:4096] + bytes(len(whole) - 4096)):
        (tmp_path / "study.db").write_bytes(damaged)
        with pytest.raises(
            InputError, match=r"study\.db: cannot be read as a study \(DatabaseError.* --study"
        ):
            open_study(tmp_path, [], 3, SPACE)
