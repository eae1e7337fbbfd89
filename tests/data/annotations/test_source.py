from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tiny_data import coco_document, write_coco, write_image, write_yolo
from yolo_lightning.data.annotations.coco import CocoReader
from yolo_lightning.data.annotations.source import DataSource
from yolo_lightning.data.annotations.yolo import YoloReader
from yolo_lightning.errors import InputError


def test_coco_wins_over_yolo_unless_the_yaml_is_given(tmp_path: Path) -> None:
    yaml_file = write_yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.2"}, names=("x", "y", "z"))
    assert DataSource(tmp_path).locate() == (YoloReader, yaml_file)
    write_coco(tmp_path, coco_document())
    assert DataSource(tmp_path).locate() == (CocoReader, tmp_path)
    assert (
        DataSource(tmp_path).classes()[0] == DataSource(tmp_path).read("train").class_names == ("dog", "cat")
    )
    by_yaml = DataSource(yaml_file)
    assert by_yaml.locate() == (YoloReader, yaml_file)
    assert by_yaml.classes()[0] == by_yaml.read("train").class_names == ("x", "y", "z")


def test_no_data_set_gives_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"give its folder as --data\.root"):
        DataSource(None).classes()
    with pytest.raises(InputError, match=r"none: the folder does not exist"):
        DataSource(tmp_path / "none").classes()
    with pytest.raises(InputError, match=r"no data set found; .*instances_train\.json.*data\.yaml"):
        DataSource(tmp_path).classes()


def test_split_that_is_not_there(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco", coco_document())
    write_yolo(tmp_path / "yolo", {"a": ""})
    for name, message in (("coco", r"no test split; .*--data\.test_annotations"), ("yolo", "no test split")):
        source = DataSource(tmp_path / name)
        with pytest.raises(InputError, match=message):
            source.read("test")


def test_explicit_paths_override(tmp_path: Path) -> None:
    write_coco(tmp_path / "root", coco_document())
    other = coco_document()
    other["images"] = other["images"][:2]
    path = write_coco(tmp_path / "other", other)
    for split_root in (tmp_path / "root", None):
        source = DataSource(split_root, {"train": path}, {"train": tmp_path / "other/images/train"})
        index = source.read("train")
        assert len(index) == 2 and index.source == path
        assert index.path(0).parent == tmp_path / "other/images/train"
    assert DataSource(None, {"train": path}).classes()[0] == ("dog", "cat")
    with pytest.raises(InputError, match=r"gone: the images do not exist; correct --data\.train_images"):
        DataSource(None, {"train": path}, {"train": tmp_path / "gone"}).read("train")
    with pytest.raises(InputError, match=r"gone\.json: the annotations do not exist"):
        DataSource(None, {"val": tmp_path / "gone.json"}).classes()
    with pytest.raises(InputError, match=r"gone\.json: cannot be read"):
        DataSource(None, {"val": tmp_path / "gone.json"}).read("val")


def test_explicit_images_of_a_yolo_split(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": ""})
    write_image(tmp_path / "images/more/b.png")
    source = DataSource(path, images={"test": tmp_path / "images/more"})
    assert source.read("test").path(0).name == "b.png"


@pytest.mark.parametrize("write", [write_coco, write_yolo])
def test_a_root_that_is_one_folder_too_high_is_told(tmp_path: Path, write: Callable[..., object]) -> None:
    write(tmp_path / "set", coco_document() if write is write_coco else {"a": "0 0.5 0.5 0.2 0.2\n"})
    message = rf"{tmp_path}: no data set found, but one in {tmp_path / 'set'}; give it as --data\.root"
    with pytest.raises(InputError, match=message):
        DataSource(tmp_path).read("train")
