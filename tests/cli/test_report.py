from pathlib import Path

import pytest

from tests.support.report_run import make_run
from yolo_lightning.cli.report import run_report
from yolo_lightning.errors import InputError


@pytest.mark.parametrize("name", ["runs/pets/version_0", "pets"])
def test_the_report_is_made_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_run(tmp_path / "runs" / "pets" / "version_0", whole=False) / "report.html"
    path.write_text("old")
    monkeypatch.chdir(tmp_path)
    run_report([name])
    assert capsys.readouterr().out == f"{path}\n"
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], r"required: RUN.*see yolo-lightning report --help"),
        (["nowhere"], "nowhere: there is no such run, neither as a folder nor in runs"),
        (["."], r"\.: has no metrics\.csv"),
    ],
)
def test_wrong_input_is_one_sentence(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        run_report(argv)


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", whole=False)
    (run / "report.html").mkdir()
    with pytest.raises(InputError, match=r"the report cannot be written \(Is a directory\)"):
        run_report([str(run)])
    assert not list(run.glob(".*"))


def test_help_names_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_report(["--help"])
    assert ended.value.code == 0
    assert "RUN" in capsys.readouterr().out
