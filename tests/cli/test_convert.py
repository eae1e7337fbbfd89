from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import labelled_sets as sets
from yolo_lightning.cli.convert import run_convert
from yolo_lightning.data.annotations.source import DataSource
from yolo_lightning.data.module import DetectionDataModule
from yolo_lightning.errors import InputError


def convert(root: Path, output: Path, to: str = "coco", *more: str) -> None:
    run_convert(["--data.root", str(root), "--output", str(output), "--to", to, *more])


@pytest.mark.parametrize("to", ["coco", "yolo"])
def test_convert_writes_what_fit_reads(tmp_path: Path, to: str, capsys: pytest.CaptureFixture[str]) -> None:
    sets.write_voc(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "out", to)
    given, made = (DetectionDataModule(str(tmp_path / name)) for name in ("in", "out"))
    for split in ("train", "val"):
        paths = [path.name for path in map(Path, given.index(split).paths())]  # type: ignore[arg-type]
        assert paths == [Path(path).name for path in made.index(split).paths()]  # type: ignore[arg-type]
    shown = capsys.readouterr()
    assert "train has 2 images and 2 labels" in shown.out and "Pascal VOC, no val split" in shown.err


def test_convert_says_what_yolo_cannot_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets.write_voc(tmp_path / "in")
    hard = sets.voc_object().replace("<difficult>0", "<difficult>1")
    sets.put(tmp_path / "in/a.xml", sets.voc_xml("a.png", hard + sets.voc_object(box=(50, 1, 99, 9))))
    convert(tmp_path / "in", tmp_path / "out", "yolo", "--data.val_share", "0")
    assert DataSource(tmp_path / "out").splits() == ["train"]
    shown = capsys.readouterr().out
    assert "crowds, left out: 1" in shown and "boxes clipped to the image: 1" in shown


def test_convert_takes_the_options_of_the_data(tmp_path: Path) -> None:
    sets.write_voc(tmp_path / "in")
    sets.put(tmp_path / "in/data.yaml", "train: .\nval: .\nnames: [square]\n")
    convert(tmp_path / "in", tmp_path / "out", "coco", "--data.format", "voc", "--copy")
    index = DataSource(tmp_path / "out").read("train")
    assert index.class_names == ("disc",) and not index.path(0).samefile(tmp_path / "in" / index.path(0).name)


def test_convert_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets.write_voc(tmp_path / "in")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    for output in ("full", "full/x", "in/out"):
        with pytest.raises(InputError, match=r"is not an empty folder|lies in the data set"):
            convert(tmp_path / "in", tmp_path / output)
    with pytest.raises(InputError, match=r"data\.format 'vocs' is unknown; use auto, coco, yolo, "):
        convert(tmp_path / "in", tmp_path / "out", "coco", "--data.format", "vocs")
    with pytest.raises(InputError, match=r"data\.val_share 1\.0 is out of range; use 0 to 0\.99"):
        convert(tmp_path / "in", tmp_path / "out", "coco", "--data.val_share", "1")
    for options in (["--to", "voc"], []):
        with pytest.raises(SystemExit):
            run_convert(["--data.root", str(tmp_path), "--output", str(tmp_path / "out"), *options])
    assert "--to" in capsys.readouterr().err and not (tmp_path / "out").exists()
