from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_data import annotation, coco_document, image, write_coco, write_image
from yolo_lightning.data.annotations.coco import CocoReader, annotation_file, read_categories
from yolo_lightning.data.annotations.findings import refuse_errors
from yolo_lightning.errors import InputError


def test_reads_everything_as_pycocotools_does(tmp_path: Path) -> None:
    pycocotools = pytest.importorskip("pycocotools.coco")
    path = write_coco(tmp_path, coco_document())
    index = CocoReader(path, "train").read()
    reference = pycocotools.COCO(str(path))
    assert sorted(index.image_ids.tolist()) == sorted(reference.getImgIds())
    for i in range(len(index)):
        image_id = int(index.image_ids[i])
        entry = reference.loadImgs(image_id)[0]
        assert index.path(i).name == entry["file_name"]
        assert index.sizes[i].tolist() == [entry["height"], entry["width"]]
        truth = reference.loadAnns(reference.getAnnIds(image_id))
        rows = index.rows(i)
        boxes = index.boxes[rows].copy()
        boxes[:, 2:] -= boxes[:, :2]
        np.testing.assert_array_equal(boxes, np.array([a["bbox"] for a in truth]).reshape(-1, 4))
        assert index.category_ids[index.classes[rows]].tolist() == [a["category_id"] for a in truth]
        assert index.areas[rows].tolist() == [a["area"] for a in truth]
        assert index.crowd[rows].tolist() == [a["iscrowd"] == 1 for a in truth]


def test_classes_are_contiguous_by_category_id_and_images_ordered_by_path(tmp_path: Path) -> None:
    index = CocoReader(write_coco(tmp_path, coco_document()), "train").read()
    assert index.class_names == ("dog", "cat")
    assert index.category_ids.tolist() == [5, 90]
    assert [index.path(i).name for i in range(3)] == ["a.png", "b.png", "c.png"]
    assert index.image_ids.tolist() == [3, 7, 9]
    assert index.offsets.tolist() == [0, 1, 6, 6]
    assert index.trainable.tolist() == [True, True, True, False, False, False]


@pytest.mark.parametrize(
    "folder", ["images/train2017", "train2017", "images/train", "train", "images", "."], ids=str
)
def test_finds_images_in_the_usual_folders(tmp_path: Path, folder: str) -> None:
    document = {**coco_document(), "images": [image(7, "b.png"), image(3, "a.png")]}
    path = write_coco(tmp_path, json.dumps(document), name="train2017")
    for name in ("a.png", "b.png"):
        write_image(tmp_path / folder / name)
    assert annotation_file(tmp_path, "train") == path
    assert CocoReader(path, "train").read().path(0) == tmp_path / folder / "a.png"


def test_file_names_may_hold_folders_and_images_may_be_elsewhere(tmp_path: Path) -> None:
    document = {**coco_document(), "images": [image(7, "x/b.png"), image(3, "y/b.png")]}
    path = write_coco(tmp_path / "data", json.dumps(document))
    for name in ("x/b.png", "y/b.png"):
        write_image(tmp_path / "elsewhere" / name)
    index = CocoReader(path, "train", images=tmp_path / "elsewhere").read()
    assert [index.path(i).parent.name for i in range(2)] == ["x", "y"]


def test_area_defaults_to_that_of_the_box_and_unlabelled_images_stay(tmp_path: Path) -> None:
    document = coco_document()
    document["annotations"] = [{"id": 1, "image_id": 7, "category_id": 5, "bbox": [1, 2, 3, 4]}]
    index = CocoReader(write_coco(tmp_path, document), "train").read()
    assert index.areas.tolist() == [12.0]
    assert len(index) == 3 and index.offsets.tolist() == [0, 0, 1, 1]
    assert any("'cat'" in f.what and "instances_train.json" in f.where for f in index.findings)


def test_two_annotation_files_of_a_split_need_a_choice(tmp_path: Path) -> None:
    for name in ("train2014", "train2017"):
        write_coco(tmp_path, "{}", name=name)
    with pytest.raises(InputError, match=r"instances_train2014\.json.*--data\.train_annotations"):
        annotation_file(tmp_path, "train")
    assert annotation_file(tmp_path, "val") is None


def _with(**changes: Any) -> dict[str, Any]:
    return {**coco_document(), **changes}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ('{"images": [],\n "annotations": [,]}', r"instances_train\.json:2: broken JSON"),
        ('{"images": [', r"instances_train\.json:1: broken JSON"),
        ("[1, 2]", "not COCO annotations"),
        (_with(images=[]), "the train split has no images"),
        ({k: v for k, v in coco_document().items() if k != "annotations"}, "'annotations' is missing"),
        (_with(categories=[]), "'categories' is empty"),
        (_with(categories=[{"id": 5}]), "entry 0 of 'categories'"),
        (_with(categories=[{"id": 5, "name": "a"}, {"id": 5, "name": "b"}]), "two categories have the id 5"),
        (_with(images=[{"id": 3, "file_name": "a.png"}]), "image 3 needs"),
        (_with(images=[image(3, "a.png"), image(3, "b.png")]), "2 images have the id 3"),
        (json.dumps(_with(images=[image(3, "a.png", width=0)])), "image 3 needs"),
        (_with(annotations=[annotation(55, 7, 6, [0, 0, 1, 1])]), "annotation 55 has category_id 6"),
        (_with(annotations=[annotation(55, 8, 5, [0, 0, 1, 1])]), "annotation 55 has image_id 8"),
        (_with(annotations=[{"id": 55, "image_id": 7, "category_id": 5}]), "annotation 55 lacks"),
        (
            _with(annotations=[{**annotation(55, 7, 5, [0, 0, 1, 1]), "bbox": [0, 0, 1]}]),
            "annotation 55 needs",
        ),
        (
            _with(annotations=[{**annotation(55, 7, 5, [0, 0, 1, 1]), "image_id": None}]),
            "annotation 55 needs",
        ),
        (_with(annotations=[{**annotation(55, 7, 5, [0, 0, 1, 1]), "image_id": "x"}]), "has image_id 'x'"),
        (_with(annotations=[annotation(55, 7, 5, [0, 0, float("nan"), 1])]), "annotation 55 needs"),
    ],
)
def test_wrong_annotations_give_one_sentence_with_the_file(
    tmp_path: Path, document: dict[str, Any] | str, message: str
) -> None:
    path = write_coco(tmp_path, document)
    with pytest.raises(InputError, match=message) as error:
        refuse_errors(CocoReader(path, "train").read().findings)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_missing_images_are_counted_and_named(tmp_path: Path) -> None:
    path = write_coco(tmp_path, coco_document())
    (tmp_path / "images/train/b.png").unlink()
    index = CocoReader(path, "train").read()
    (error,) = [finding for finding in index.findings if finding.is_error]
    assert error.image == str(tmp_path / "images/train/b.png") and "b.png does not exist" in error.what
    assert [Path(name).name for name in index.paths()] == ["a.png", "c.png"]
    for name in ("a.png", "c.png"):
        (tmp_path / "images/train" / name).unlink()
    with pytest.raises(InputError, match=r"none of its 3 images .*images/train.*--data\.train_images"):
        CocoReader(path, "train").read()


@pytest.mark.parametrize("indent", [None, 2])
def test_class_names_alone_equal_those_of_the_index(tmp_path: Path, indent: int | None) -> None:
    document = coco_document()
    document["categories"].append({"id": 91, "name": "odd ]} name", "skeleton": [[1, 2], [2, 3]]})
    path = write_coco(tmp_path, json.dumps(document, indent=indent))
    assert read_categories(path)[0] == ("dog", "cat", "odd ]} name")


def test_class_names_alone_do_not_trust_a_second_categories(tmp_path: Path) -> None:
    document = {"info": {"categories": [{"id": 1, "name": "not me"}]}, **coco_document()}
    assert read_categories(write_coco(tmp_path, json.dumps(document)))[0] == ("dog", "cat")


@pytest.mark.parametrize(
    "value, is_crowd", [(0, False), ("0", False), ("false", False), (None, False), (1, True), ("1", True)]
)
def test_a_crowd_may_be_told_in_words(tmp_path: Path, value: object, is_crowd: bool) -> None:
    document = coco_document()
    document["annotations"][0]["iscrowd"] = value
    index = CocoReader(write_coco(tmp_path, document), "train").read()
    others = sum(a.get("iscrowd", 0) for a in document["annotations"][1:])
    assert index.crowd.sum() == others + is_crowd
