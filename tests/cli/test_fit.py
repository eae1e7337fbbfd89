from __future__ import annotations

import time
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

import yolo_lightning
from yolo_lightning import Detections, InputError
from yolo_lightning.data.synthetic import CLASS_NAMES
from yolo_lightning.runs.directory import read_metrics
from yolo_lightning.system.start_time import program_began_s


class NeedsLibrary(CSVLogger):
    def __init__(self) -> None:
        raise ModuleNotFoundError("Requirement 'nothing' not met")


def test_one_call_trains_and_gives_the_model(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = yolo_lightning.fit(
        shapes, epochs=1, data__image_size=64, data__batch_size=4, data__num_workers=0, data__cache="none",
        model__compile=False, trainer__accelerator="cpu", trainer__devices=1, dashboard__report=False,
        **{"run_name": "mine", "trainer.precision": "32-true", "dashboard.pictures": 0},
    )  # fmt: skip
    assert run.directory == tmp_path / "runs" / "mine" / "version_0"
    (row,) = read_metrics(run.directory / "metrics.csv")
    assert run.best == run.last == {name: value for name, value in row.items() if name in run.best}
    assert "val/map" in run.best
    assert run.best_checkpoint == run.directory / "checkpoints" / "best.ckpt"
    detector = run.detector(device="cpu", score_threshold=0.0)
    assert detector.names == CLASS_NAMES
    found = detector(next((shapes / "images" / "val").iterdir()))
    assert isinstance(found, Detections)
    capsys.readouterr()
    with pytest.raises(InputError, match="an option of fit is wrong"):
        yolo_lightning.fit(shapes, data__image_siez=64)
    assert "did you mean --data.image_size?" in capsys.readouterr().err


def test_an_option_is_given_once(shapes: Path) -> None:
    with pytest.raises(InputError, match=r"data\.root is given twice"):
        yolo_lightning.fit(shapes, data__root="elsewhere")


def test_data_that_is_missing_is_one_sentence(tmp_path: Path) -> None:
    called_s = time.monotonic()
    with pytest.raises(InputError, match=f"{tmp_path}/none"):
        yolo_lightning.fit(tmp_path / "none", runs_dir=tmp_path)
    assert program_began_s() >= called_s  # a deadline counts from the call, not from the import


def test_a_library_that_is_missing_is_one_sentence(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^Requirement 'nothing' not met$"):
        yolo_lightning.fit(shapes, runs_dir=tmp_path, trainer__logger="tests.cli.test_fit.NeedsLibrary")


def test_an_object_is_no_option(shapes: Path) -> None:
    with pytest.raises(InputError, match=r"trainer\.callbacks is \[<.*give plain values"):
        yolo_lightning.fit(shapes, trainer__callbacks=[Callback()])
