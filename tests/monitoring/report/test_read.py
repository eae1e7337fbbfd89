import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.report_run import evaluation, make_run, write
from yolo_lightning.errors import InputError
from yolo_lightning.monitoring.report.read import find_run, read_run
from yolo_lightning.monitoring.report.sections import epochs_text


def test_a_whole_run(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "fit" / "version_3"))
    assert run.name == "fit/version_3"
    assert (run.best["epoch"], run.last["epoch"]) == (1, 2)
    assert run.option("model.optimizer.learning_rate") == 0.01
    assert run.option("model.nothing") is None and run.option("seed_everything.deeper") is None
    assert run.checkpoint("best") == run.directory / "checkpoints" / "best.ckpt"
    assert run.unreadable == []
    assert run.evaluation is not None and run.evaluation.f1.shape == (2, 5)


def test_only_the_metrics_are_needed(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", whole=False))
    assert len(run.rows) == 3
    assert (run.config, run.evaluation, run.time_budget) == ({}, None, {})
    assert run.checkpoint("best") is None


def test_a_figure_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,a,b\n0,,nan\n1,inf,2\n")
    assert read_run(tmp_path).rows == [{"epoch": 0}, {"epoch": 1, "b": 2}]


def test_the_figures_of_a_test_are_read_as_those_of_a_validation(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,test/map\n0,0.5\n")
    assert read_run(tmp_path).best == {"epoch": 0, "val/map": 0.5}
    assert epochs_text(read_run(tmp_path)) == "-"  # it has trained none


def test_without_a_validation_the_last_epoch_is_the_best(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,val/map\n0,\n1,\n")
    assert read_run(tmp_path).best["epoch"] == 1


@pytest.mark.parametrize(
    ("name", "text"), [("environment.json", "{"), ("config.yaml", "a: ["), ("config.yaml", "1")]
)
def test_a_damaged_file_is_named_and_left_out(tmp_path: Path, name: str, text: str) -> None:
    directory = make_run(tmp_path / "run")
    (directory / name).write_text(text)
    assert read_run(directory).unreadable == [name]


@pytest.mark.parametrize(
    "change",
    [
        {"confusion": [[1]]},
        {"f1": None},
        {"recall": [[1]]},
        {"class_names": 3},
        {"best_f1": 3},
        {"epoch": None},
        {"best_f1": {"confidence": "x", "f1": 1}},
        {"best_f1": {"confidence": 0.5}},
        {"confidence": [], "precision": [[], []], "recall": [[], []], "f1": [[], []]},
    ],
)
def test_an_evaluation_of_other_shapes_is_named_and_left_out(
    tmp_path: Path, change: dict[str, object]
) -> None:
    directory = make_run(tmp_path / "run")
    write(directory / "evaluation.json", evaluation(("cat", "dog")) | change)
    run = read_run(directory)
    assert run.evaluation is None and run.unreadable == ["evaluation.json"]


@pytest.mark.parametrize("text", ["", "epoch,a\n", "a\n1\n", "epoch,a\n0,x\n", "epoch\n0,1\n"])
def test_a_table_without_an_epoch_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(InputError, match=r"metrics\.csv: (holds no epoch|cannot be read)"):
        read_run(tmp_path)


def test_a_run_is_found_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    for version in (2, 10):
        make_run(runs / "pets" / f"version_{version}", whole=False)
    (runs / "pets" / "version_11").mkdir()  # has not trained an epoch
    monkeypatch.chdir(tmp_path)
    newest = "runs/pets/version_10"
    assert find_run("runs/pets/version_2") == Path("runs/pets/version_2")
    assert find_run("pets") == find_run("runs/pets") == Path(newest)
    assert find_run("pets/version_2") == Path("runs/pets/version_2")
    assert find_run("pets", runs) == runs / "pets" / "version_10"
    with pytest.raises(InputError, match=r"cats: there is no such run"):
        find_run("cats")
    for given in ("runs/pets/version_11", "pets/version_11"):
        with pytest.raises(InputError, match=r"^\S*version_11: has no metrics.csv"):
            find_run(given)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_run("~/runs/pets") == runs / "pets" / "version_10"
    with pytest.raises(InputError, match=r"^~/runs: has no metrics.csv"):
        find_run("~/runs")


IN_ANY_LOCALE = r"""
import sys
from pathlib import Path
from types import SimpleNamespace

from jsonargparse import ArgumentParser

from yolo_lightning.system.files import write_whole
from yolo_lightning.runs.record import metrics_as_csv
from yolo_lightning.runs.record import SaveConfig
from yolo_lightning.monitoring.report.page import write_report
from yolo_lightning.monitoring.report.read import read_run

directory, names = Path(sys.argv[1]), ["Blutpl\u00e4ttchen", "\u732b"]
parser = ArgumentParser()
parser.add_argument("--config", action="config")
parser.add_argument("--model", type=dict)
trainer = SimpleNamespace(is_global_zero=True, default_root_dir=directory)
SaveConfig(parser, parser.parse_object({"model": {"class_names": names}})).on_train_start(trainer, None)
row = {"epoch": 0.0, **{f"val/map_class/{name}": 0.5 for name in names}}
write_whole(directory / "metrics.csv", metrics_as_csv([row]))

run = read_run(directory)
assert run.config["model"]["class_names"] == names
assert run.last == row
assert all(name in write_report(directory).read_text(encoding="utf-8") for name in names)
again = parser.parse_args(["--config", str(directory / "config.yaml")])
assert again.model["class_names"] == names
"""


def test_names_of_classes_survive_a_locale_without_their_letters(tmp_path: Path) -> None:
    locale = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    command = [sys.executable, "-c", IN_ANY_LOCALE, str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, **locale}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
