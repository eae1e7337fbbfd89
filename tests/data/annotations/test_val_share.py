from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support import labelled_sets as sets
from tests.support.tiny_data import coco_document, write_coco, write_yolo
from yolo_lightning.data.annotations.source import DataSource
from yolo_lightning.errors import InputError


def names(root: Path, split: str, share: float = 0.2) -> set[str]:
    return {Path(path).name for path in DataSource(root, val_share=share).read(split).paths()}  # type: ignore[arg-type]


def test_images_are_shared_and_stay_where_they_are(tmp_path: Path) -> None:
    for n in range(40):
        sets.picture(tmp_path / f"{n}.png")
        sets.put(tmp_path / f"{n}.xml", sets.voc_xml(f"{n}.png", sets.voc_object(box=(n, 1, n + 5, 9))))
    source = DataSource(tmp_path, val_share=0.2)
    assert source.splits() == ["train", "val"]
    train, val = names(tmp_path, "train"), names(tmp_path, "val")
    assert not train & val and len(train | val) == 40 and 4 <= len(val) <= 12
    for split in ("train", "val"):
        index = source.read(split)  # type: ignore[arg-type]
        assert index.split == split and "20% of the images validate (--data.val_share)" in index.layout
        for i in range(len(index)):  # each image has its own box
            n = int(index.path(i).stem)
            np.testing.assert_array_equal(index.boxes[index.rows(i)], [[n, 1, n + 5, 9]])
    assert names(tmp_path, "val", 0.5) > val
    (tmp_path / "39.xml").unlink()
    assert val - names(tmp_path, "val") <= {"39.png"}


def test_findings_go_with_their_images(tmp_path: Path) -> None:
    sets.write_voc(tmp_path)
    for name in sets.NAMES:
        objects = sets.voc_object(box=(1, 1, 99, 9))
        sets.put(tmp_path / f"{name[0]}.xml", sets.voc_xml(name, objects))
    source = DataSource(tmp_path, val_share=0.3)
    for split in ("train", "val"):
        index = source.read(split)  # type: ignore[arg-type]
        assert [finding.image for finding in index.findings] == index.paths()


def test_each_split_has_an_image(tmp_path: Path) -> None:
    sets.write_labelme(tmp_path)
    for share in (1e-9, 0.999):
        assert names(tmp_path, "train", share) and names(tmp_path, "val", share)
    for name in "bc":
        (tmp_path / f"{name}.json").unlink()
    with pytest.raises(InputError, match="no val split and fewer than two images"):
        names(tmp_path, "val")


@pytest.mark.parametrize("layout", ["COCO in one file", "Darknet", "YOLO without data.yaml", "CSV table"])
def test_other_sets_without_a_val_split_are_shared_too(tmp_path: Path, layout: str) -> None:
    sets.WRITERS[layout](tmp_path)
    assert names(tmp_path, "train") | names(tmp_path, "val") == names(tmp_path, "train", 0) == set(sets.NAMES)
    with pytest.raises(InputError, match="there is no val split"):
        names(tmp_path, "val", 0)


def test_coco_and_yolo_that_name_a_train_split_need_a_val_split(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco", coco_document())
    write_yolo(tmp_path / "yolo", {"a": sets.ROW, "b": "", "c": ""}, val=None)
    for name in ("coco", "yolo"):
        assert len(names(tmp_path / name, "train")) == 3
        assert DataSource(tmp_path / name, val_share=0.2).splits() == ["train"]
        with pytest.raises(InputError, match="there is no val split"):
            names(tmp_path / name, "val")


def test_a_val_split_or_given_files_are_used_as_they_are(tmp_path: Path) -> None:
    document = coco_document()
    for split in ("train", "val"):
        write_coco(tmp_path, document, split)
    assert len(names(tmp_path, "train")) == len(names(tmp_path, "val")) == 3
    path = write_coco(tmp_path / "other", document)
    given = DataSource(tmp_path / "other", {"val": path}, val_share=0.2)
    assert len(given.read("train")) == len(given.read("val")) == 3
    with pytest.raises(InputError, match="no test split"):
        names(tmp_path, "test")
