"""COCO as labelling tools write it: each case is a small data set, and the boxes or the sentence it gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_data import write_image
from yolo_lightning import DetectionDataModule
from yolo_lightning.data.annotations.source import DataSource
from yolo_lightning.errors import InputError

BOX = [16.0, 12.0, 32.0, 24.0]
POLYGON = [[16, 12, 32, 12, 32, 24, 16, 24]]


def document(count: int = 1, **more: Any) -> dict[str, Any]:
    """Images of 64 x 48 px called 0.png, 1.png, ... with one disc each."""
    images = [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 48} for n in range(count)]
    annotations = [{"id": n, "image_id": n, "category_id": 1, "bbox": [16, 12, 16, 12]} for n in range(count)]
    categories = [{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}]
    return {"images": images, "annotations": annotations, "categories": categories, **more}


def write(
    root: Path,
    content: dict[str, Any] | bytes,
    file: str = "annotations/instances_train.json",
    folder: str = "images/train",
    images: tuple[str, ...] = ("0.png",),
) -> Path:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    for name in images:
        write_image(root / folder / name, 48, 64)
    return root / file


def image_(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["images"][0].update(changes)


def label(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["annotations"][0].update(changes)


def ids(image: Any = 0, category: Any = 1, reference: Any = None) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["images"][0]["id"] = image
        content["annotations"][0]["image_id"] = image if reference is None else reference
        content["categories"][0]["id"] = content["annotations"][0]["category_id"] = category

    return change


def as_map(*sections: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for section in sections:
            content[section] = {str(item["id"]): item for item in content[section]}

    return change


def without_ids(content: dict[str, Any]) -> None:
    as_map("images", "annotations", "categories")(content)
    for section in ("images", "annotations", "categories"):
        for item in content[section].values():
            del item["id"]


MASK = {"size": [48, 64], "counts": [16 * 48 + 12, *[12, 36] * 15, 12, 32 * 48 + 24]}
READ: dict[str, Callable[[dict[str, Any]], None]] = {
    "backslash": image_(file_name="images\\train\\0.png"),
    "leading dot": image_(file_name="./0.png"),
    "leading dot and backslash": image_(file_name=".\\0.png"),
    "url": image_(file_name="https://host/a/0.png?key=1"),
    "path of another machine": image_(file_name="/home/me/set/0.png"),
    "drive": image_(file_name="D:\\set\\0.png"),
    "upper-case suffix": image_(file_name="0.PNG"),
    "polygon": label(bbox=None, segmentation=POLYGON),
    "polygon, empty bbox": label(bbox=[], segmentation=POLYGON),
    "flat polygon": label(bbox=None, segmentation=POLYGON[0]),
    "mask": label(bbox=None, segmentation=MASK),
    "bbox of texts": label(bbox=["16", "12", "16", "12"]),
    "bbox and odd segmentation": label(segmentation=[[1]]),
    "area null": label(area=None),
    "text id of an annotation": label(id="a"),
    "large id of an annotation": label(id=2**70),
    "text ids": ids("scene_0001", "d"),
    "numbers as text": ids("7", "1"),
    "number and text": ids(7, 1, "7"),
    "floats": ids(7.0, 1.0),
    "broken float": ids(7.5, 1.5),
    "from zero": ids(0, 0),
    "negative": ids(-3, -1),
    "leading zeros": ids("007", 1),
    "large": ids(2**70, 1),
    "list": ids([1, "a"], 1),
    "annotations as a map": as_map("annotations"),
    "all as maps": as_map("images", "annotations", "categories"),
    "maps without ids": without_ids,
    "sizes as text": image_(width="64", height="48"),
    "more keys": lambda content: content.update(info=None, licenses=[{"id": 1}], type="instances"),
}


@pytest.mark.parametrize("name", READ)
def test_read(tmp_path: Path, name: str) -> None:
    content = document()
    READ[name](content)
    write(tmp_path, content)
    source = DataSource(tmp_path)
    index = source.read("train")
    assert index.labels(0).tolist() == [[index.class_names.index("disc"), *BOX]]
    assert (index.class_names, index.category_ids.tolist()) == (
        source.classes()[0],
        source.classes()[1].tolist(),
    )


ERRORS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no outline": (label(bbox=None), r"annotation 0 lacks .*bbox or segmentation"),
    "two corners": (label(bbox=None, segmentation=[[1, 2, 3, 4]]), r"annotation 0 needs .*polygons"),
    "three numbers": (label(bbox=[1, 2, 3]), "annotation 0 needs .*four numbers as bbox"),
    "text as bbox": (label(bbox="16,12,16,12"), "annotation 0 needs"),
    "infinite": (label(bbox=[0, 0, float("inf"), 1]), "annotation 0 needs"),
    "image gone": (label(image_id="b"), "annotation 0 has image_id 'b', which is not in 'images'"),
    "category null": (label(category_id=None), "annotation 0 needs ids"),
    "id null": (image_(id=None), "image None needs an id"),
    "same ids": (lambda c: c["images"].append({**c["images"][0], "id": "0"}), "2 images have the id 0"),
    "swapped": (image_(width=48, height=64), r"0\.png: the image is 64 x 48 px but .* say 48 x 64 px"),
    "another size": (image_(width=640), r"0\.png: the image is 64 x 48 px but .* say 640 x 48 px"),
    "file missing": (image_(file_name="x\\1.png"), r"none of its 1 images \(such as x\\1\.png\)"),
    "text": (lambda c: c.update(annotations="none"), "the list 'annotations' is no list but \"none\""),
    "no categories": (lambda c: c.pop("categories"), "the list 'categories' is missing"),
    "nameless": (lambda c: c["categories"][0].pop("name"), "entry 0 of 'categories' needs an id and a name"),
    "grouped by image": (lambda c: c.update(annotations={"0.png": c["annotations"]}), "annotation 0 lacks"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(tmp_path: Path, name: str) -> None:
    content = document()
    change, message = ERRORS[name]
    change(content)
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=message) as error:
        DataSource(tmp_path).read("train")
    assert str(path if " say " not in message else tmp_path) in str(error.value) and "\n" not in str(
        error.value
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    content = document(categories=[{"id": 1, "name": "café"}])
    write(tmp_path, json.dumps(content, indent=1, ensure_ascii=False).replace("\n", "\r\n").encode(encoding))
    source = DataSource(tmp_path)
    assert source.read("train").class_names == source.classes()[0] == ("café",)


def test_another_encoding(tmp_path: Path) -> None:
    content = document(categories=[{"id": 1, "name": "café"}])
    write(tmp_path, json.dumps(content, ensure_ascii=False).encode("cp1252"))
    with pytest.raises(InputError, match=r"instances_train\.json: .*save the file as UTF-8"):
        DataSource(tmp_path).read("train")


ROBOFLOW = "COCO in Roboflow's folders"
LAYOUTS = [
    ("annotations/instances_{}.json", ("train", "val"), "images/{}", "COCO"),
    ("annotations/instances_{}2017.json", ("train", "val"), "{}2017", "COCO"),
    ("annotations/instances_{}.json", ("Train", "Validation"), "images/{}/Data", "COCO with CVAT's subsets"),
    ("annotations/instances_{}.json", ("TRAIN", "VAL"), "images/{}", "COCO with CVAT's subsets"),
    ("annotations/{}.json", ("train", "valid"), "images/{}", "COCO"),
    ("{}/_annotations.coco.json", ("train", "valid"), "{}", ROBOFLOW),
    ("{}/_annotations.coco.json", ("Train", "Val"), "{}/images", ROBOFLOW),
]


@pytest.mark.parametrize(("file", "splits", "folder", "layout"), LAYOUTS)
def test_layouts(
    tmp_path: Path,
    file: str,
    splits: tuple[str, str],
    folder: str,
    layout: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for split in splits:
        write(tmp_path, document(), file.format(split), folder.format(split))
    data = DetectionDataModule(str(tmp_path), cache="none")
    with caplog.at_level("INFO"):
        data.build_indices("fit")
    for split, name in zip(("train", "val"), splits, strict=True):
        index = data.index(split)  # type: ignore[arg-type]
        assert index.source == tmp_path / file.format(name)
        assert index.path(0) == tmp_path / folder.format(name) / "0.png"
        assert index.labels(0).tolist() == [[0, *BOX]]
        assert f"{split} ({layout}, {index.source}): 1 images" in caplog.text


def test_a_data_yaml_wins_over_the_layouts_that_are_not_cocos(tmp_path: Path) -> None:
    write(tmp_path, document(), "train/_annotations.coco.json", "train/images")
    (tmp_path / "data.yaml").write_text("train: train/images\nval: train/images\nnames: [x]\n")
    assert DataSource(tmp_path).read("train").class_names == ("x",)
    given = DataSource(tmp_path, {"train": tmp_path / "train/_annotations.coco.json"})
    assert given.read("train").class_names == ("disc", "square")


def test_subsets_without_the_split_are_named(tmp_path: Path) -> None:
    for name in ("instances_a", "instances_b"):
        write(tmp_path, document(), f"annotations/{name}.json")
    with pytest.raises(InputError, match=r"instances_a\.json, annotations/instances_b\.json are all COCO"):
        DataSource(tmp_path).read("train")


def grouped(used: int = 1) -> dict[str, Any]:
    categories = [
        {"id": 0, "name": "shapes", "supercategory": "none"},
        {"id": 1, "name": "disc", "supercategory": "shapes"},
        {"id": 2, "name": "square", "supercategory": "shapes"},
    ]
    content = document(categories=categories)
    content["annotations"][0]["category_id"] = used
    return content


def test_a_category_that_groups_the_others_is_no_class(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write(tmp_path, grouped(), f"{split}/_annotations.coco.json", split)
    source = DataSource(tmp_path)
    assert source.classes()[0] == source.read("train").class_names == ("disc", "square")
    assert source.read("train").category_ids.tolist() == [1, 2]
    write(tmp_path, grouped(used=0), "train/_annotations.coco.json", "train")  # it has a label
    assert source.classes()[0] == source.read("val").class_names == ("shapes", "disc", "square")
    assert source.read("val").labels(0)[0, 0] == 1 and source.read("train").labels(0)[0, 0] == 0


@pytest.mark.parametrize("supercategory", ["disc", "", None, [], "vehicle"])
def test_other_supercategories_change_nothing(tmp_path: Path, supercategory: Any) -> None:
    categories = [
        {"id": 1, "name": "disc", "supercategory": supercategory},
        {"id": 2, "name": "square", "supercategory": supercategory},
    ]
    write(tmp_path, document(categories=categories, annotations=[]))
    assert DataSource(tmp_path).read("train").class_names == ("disc", "square")


@pytest.mark.parametrize(
    "categories",
    [
        [{"id": 1, "name": "square"}, {"id": 2, "name": "disc"}],
        [{"id": 10, "name": "disc"}, {"id": 20, "name": "square"}],
        [{"id": "s", "name": "square"}, {"id": "d", "name": "disc"}],
    ],
)
def test_splits_are_matched_by_the_names_of_their_classes(tmp_path: Path, categories: Any) -> None:
    write(tmp_path, document())
    for split in ("val", "test"):
        other = document(categories=categories)
        other["annotations"][0]["category_id"] = next(c["id"] for c in categories if c["name"] == "disc")
        write(tmp_path, other, f"annotations/instances_{split}.json", f"images/{split}")
    data = DetectionDataModule(str(tmp_path), cache="none")
    data.build_indices("fit")
    names, numbers = data.source.classes()
    assert names == data.source.classes(("test",))[0]
    for split in ("train", "val", "test"):
        index = data.index(split)  # type: ignore[arg-type]
        assert index.class_names == names and index.category_ids.tolist() == numbers.tolist()
        assert index.labels(0).tolist() == [[names.index("disc"), *BOX]]


def test_splits_with_other_names_are_refused(tmp_path: Path) -> None:
    write(tmp_path, document())
    other = document(categories=[{"id": 1, "name": "disc"}, {"id": 2, "name": "ring"}])
    write(tmp_path, other, "annotations/instances_val.json", "images/val")
    with pytest.raises(InputError, match="its classes are not those of"):
        DetectionDataModule(str(tmp_path), cache="none").build_indices("fit")


def test_ids_of_several_annotations_are_counted(tmp_path: Path) -> None:
    content = document()
    content["annotations"] += [{**content["annotations"][0], "bbox": [n, n, 9, 9]} for n in range(3)]
    write(tmp_path, content)
    (finding,) = [
        f for f in DataSource(tmp_path).read("train").findings if f.kind == "repeated annotation id"
    ]
    assert finding.what.startswith("1 ids belong to several annotations, such as 0")


def test_images_that_are_respelled_or_gone(tmp_path: Path) -> None:
    content = document()
    content["images"] += [{**content["images"][0], "id": n, "file_name": f"x\\{n}.png"} for n in (7, 8, 9)]
    content["images"][0]["file_name"] = "x\\0.png"
    write(tmp_path, content)
    for n in (7, 8):
        write_image(tmp_path / f"images/train/{n}.png", 48, 64, seed=n)
    index = DataSource(tmp_path).find_errors("train")
    assert [Path(path).name for path in index.paths()] == ["0.png", "7.png", "8.png"]
    (error,) = [finding for finding in index.findings if finding.is_error]
    assert error.kind == "missing image" and "9.png does not exist" in error.what
