from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.support.tiny_data import write_image, write_yolo
from yolo_lightning.data.annotations.findings import Finding, refuse_errors
from yolo_lightning.data.annotations.summary import summarise
from yolo_lightning.data.annotations.yolo import YoloReader, data_yaml, read_data_yaml
from yolo_lightning.data.annotations.yolo_labels import label_path, read_labels
from yolo_lightning.errors import InputError


def test_boxes_polygons_and_backgrounds(tmp_path: Path) -> None:
    # 60 x 40 px: a box by hand, a triangle with its bounding box, an empty file and none at all.
    path = write_yolo(
        tmp_path,
        {"a": "1 0.5 0.5 0.5 0.25\n\n0 0.1 0.2 0.5 0.2 0.1 0.8\n", "b": "", "c": None},
    )
    index = YoloReader(path, "train").read()
    assert [index.path(i).name for i in range(3)] == ["a.png", "b.png", "c.png"]
    np.testing.assert_array_equal(index.sizes, [[40, 60]] * 3)
    np.testing.assert_allclose(index.boxes, [[15, 15, 45, 25], [6, 8, 30, 32]], rtol=1e-6)
    np.testing.assert_allclose(index.areas, [300, 576], rtol=1e-6)
    assert index.classes.tolist() == [1, 0]
    assert index.offsets.tolist() == [0, 2, 2, 2]
    assert index.category_ids.tolist() == [1, 2]
    assert index.image_ids.tolist() == [1, 2, 3]
    assert not index.crowd.any()


def test_numeric_names_are_image_ids(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"000000000139": "", "000000000025": ""})
    assert YoloReader(path, "train").read().image_ids.tolist() == [25, 139]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", "4 numbers are not a label"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 numbers are not a label"),
        ("0 0.5 0.5 0.1 0.1 0.2 0.3 0.4", "8 numbers are not a label"),
        ("0 0.5 x 0.1 0.1", "not all numbers"),
        ("2 0.5 0.5 0.1 0.1", "class 2 is not one of 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "class -1 is not one of 0 to 1"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5 is not one of 0 to 1"),
        ("0 320 240 50 60", r"320 is out of 0\.\.1"),
        ("0 nan 0.5 0.1 0.1", r"nan is out of 0\.\.1"),
        ("0 0.5 -0.2 0.1 0.1", r"-0.2 is out of 0\.\.1"),
        ("0 0.5 0.5 -0.05 0.1", "cannot be negative"),
    ],
)
def test_wrong_lines_give_one_sentence_with_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = write_yolo(tmp_path, {"a": f"0 0.5 0.5 0.1 0.1\n\n{line}\n"})
    with pytest.raises(InputError, match=message) as error:
        refuse_errors(YoloReader(path, "train").read().findings)
    assert str(tmp_path / "labels/train/a.txt:3") in str(error.value) and "\n" not in str(error.value)


def test_slightly_out_is_clipped_for_training_and_reported(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": "0 0.95 0.5 0.2 0.5\n0 1.02 0.5 0.04 0.5\n0 0.95 0.5 0.2 0.5"})
    index = YoloReader(path, "train").read()
    np.testing.assert_allclose(index.boxes[0], [51, 10, 63, 30], rtol=1e-5)  # raw
    np.testing.assert_allclose(index.labels(0), [[0, 51, 10, 60, 30]], rtol=1e-5)
    assert index.trainable.tolist() == [True, False, False]
    assert "clipped to the image: 2; without area, not trained on: 1; duplicate, not trained on: 1" in (
        summarise(index)
    )
    where = str(tmp_path / "labels/train/a.txt")
    assert [str(f).split(": ")[0] for f in index.findings if str(f).startswith(where)] == [
        f"{where}:2", f"{where}:3", f"{where}:1", f"{where}:3"]  # fmt: skip


def test_splits_as_folder_list_and_text_file(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for n, name in enumerate(["images/one/a.png", "images/one/deep/b.png", "images/two/c.png"]):
        write_image(root / name, seed=n)
    (root / "labels/one/deep").mkdir(parents=True)
    (root / "labels/one/deep/b.txt").write_text("0 0.5 0.5 0.1 0.1")
    (root / "lists").mkdir()
    (root / "lists/val.txt").write_text("../images/two/c.png\n")
    (root / "test.txt").write_text("./images/one/a.png\nimages/two/c.png\n\n")
    content = {
        "path": "set",
        "train": ["images/one", "images/two"],
        "val": "lists/val.txt",
        "test": "test.txt",
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({**content, "names": {0: "x"}, "nc": 1}))
    train = YoloReader(tmp_path / "data.yaml", "train").read()
    assert [train.path(i).name for i in range(3)] == ["a.png", "b.png", "c.png"]
    assert train.offsets.tolist() == [0, 0, 1, 1]
    val, test = (YoloReader(tmp_path / "data.yaml", split).read() for split in ("val", "test"))
    assert [val.path(i) for i in range(len(val))] == [root / "images/two/c.png"]
    assert [test.path(i).name for i in range(len(test))] == ["a.png", "c.png"]


def test_list_with_a_missing_image_names_its_line(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": ""}, train="train.txt")
    (tmp_path / "train.txt").write_text("./images/train/a.png\n./images/train/none.png\n")
    with pytest.raises(InputError, match=r"train\.txt:2: \./images/train/none\.png does not exist"):
        refuse_errors(YoloReader(path, "train").read().findings)


def test_exporters_spellings(tmp_path: Path) -> None:
    write_image(tmp_path / "train/images/a.png")
    write_image(tmp_path / "valid/images/b.png")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: val/images\nnames: [x]\n")
    train, val = (YoloReader(tmp_path / "data.yaml", split).read() for split in ("train", "val"))
    assert (train.path(0).name, val.path(0).name) == ("a.png", "b.png")
    assert any("label file" in str(finding) for finding in train.findings)


def test_another_name_for_the_yaml_and_two_of_them(tmp_path: Path) -> None:
    assert data_yaml(tmp_path) is None
    (tmp_path / "hyp.yaml").write_text("lr: 0.01")
    (tmp_path / "coco8.yaml").write_text("train: images\nval: images\nnames: [x]\n")
    assert data_yaml(tmp_path) == tmp_path / "coco8.yaml"
    (tmp_path / "other.yaml").write_text("train: images\nval: images\nnames: [x]\n")
    with pytest.raises(InputError, match=r"coco8\.yaml, other\.yaml all describe"):
        data_yaml(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images\nnames: [a, b\nval: c: d", r"data\.yaml:\d+: broken YAML"),
        ("- a", "not a data.yaml"),
        ("", "not a data.yaml"),
        ("train: images", "'names' must list"),
        ("names: [a, b]\nnc: 3", "'nc' is 3 but 'names' has 2"),
        ("names: {a: 0, b: 1}", "the key 'a' of 'names' must be the number of a class"),
    ],
)
def test_wrong_yaml_gives_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_data_yaml(tmp_path / "data.yaml")
    assert str(tmp_path / "data.yaml") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"test": None}, "there is no test split"),
        ({"test": "images/none"}, "'test' names .*images/none, which does not exist"),
        ({"test": "labels"}, "the test split has no images"),
    ],
)
def test_missing_and_empty_splits(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    path = write_yolo(tmp_path, {"a": ""}, **more)
    with pytest.raises(InputError, match=message):
        YoloReader(path, "test").read()


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": ""})
    (tmp_path / "images/train/b.png").write_text("not an image")
    with pytest.raises(InputError, match=r"b\.png: not a readable image"):
        refuse_errors(YoloReader(path, "train").read().findings)


def test_label_path_changes_the_last_images_folder_only() -> None:
    assert label_path("/images/set/images/train/images.x.jpg") == "/images/set/labels/train/images.x.txt"
    assert label_path("/set/pictures/a.jpeg") == "/set/pictures/a.txt"


def test_labels_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf0 0.5 0.5 1 1\r\n")
    wrong: list[Finding] = []
    rows = read_labels(str(tmp_path / "a.txt"), {0: 0}, 0, wrong)
    assert rows is not None and rows.tolist() == [[1, 0, 0, 0, 1, 1]]
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe0")
    read_labels(str(tmp_path / "a.txt"), {0: 0}, 0, wrong)
    assert [finding.what for finding in wrong] == ["cannot be read, it is not a text in UTF-8"]


def test_a_folder_in_the_place_of_a_label_file_is_named(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.2\n"})
    (tmp_path / "labels/train/a.txt").unlink()
    (tmp_path / "labels/train/a.txt").mkdir()
    with pytest.raises(
        InputError, match=r"a\.txt: is no file, but a folder, a pipe or a broken link; remove it"
    ):
        YoloReader(path, "train").read()


def test_points_of_a_pose_without_its_shape_are_asked_for(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.2 0.5 0.5 2 0.6 0.6 2\n"})
    with pytest.raises(
        InputError, match=r"a\.txt:1: 2 is out of 0\.\.1; .*or add 'kpt_shape' to the data\.yaml"
    ):
        refuse_errors(YoloReader(path, "train").read().findings)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_poses_of_invisible_or_flat_points_without_their_shape_are_no_polygons(
    tmp_path: Path, dimensions: int
) -> None:
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(12):
        size = rng.uniform(0.1, 0.5, 2)
        centre = rng.uniform(size / 2, 1 - size / 2)
        points = centre + rng.uniform(-0.5, 0.5, (4, 2)) * size
        rows = np.hstack((points, np.ones((4, 1))))[:, :dimensions]
        lines.append(" ".join(map(str, (0, *centre, *size, *rows.ravel()))))
    path = write_yolo(tmp_path, {"a": "\n".join(lines)})
    with pytest.raises(InputError, match="boxes followed by the points of poses"):
        refuse_errors(YoloReader(path, "train").read().findings)
    path.write_text(path.read_text() + f"\nkpt_shape: [4, {dimensions}]\n")
    assert len(YoloReader(path, "train").read().classes) == 12


@pytest.mark.parametrize("vertices", [4, 8])
@pytest.mark.parametrize("radius", [0.02, 0.1, 0.3])
def test_polygons_of_one_length_are_no_poses(tmp_path: Path, vertices: int, radius: float) -> None:
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(20):
        angles = np.linspace(0, 2 * np.pi, vertices, endpoint=False) + rng.uniform(0, 6)
        points = rng.uniform(radius, 1 - radius, 2) + radius * np.stack((np.cos(angles), np.sin(angles)), 1)
        lines.append(" ".join(map(str, (0, *points.ravel()))))
    path = write_yolo(tmp_path, {"a": "\n".join(lines)})
    assert len(YoloReader(path, "train").read().classes) == 20
    refuse_errors(YoloReader(path, "train").read().findings)
