from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_data import SHARED, coco_document, write_coco, write_yolo
from yolo_lightning.data.annotations.coco import CocoReader
from yolo_lightning.data.annotations.findings import Finding
from yolo_lightning.data.annotations.index import (
    Annotations,
    DatasetIndex,
    build_index,
    ids_from_paths,
    join,
    missing_files,
)
from yolo_lightning.data.annotations.source import DataSource
from yolo_lightning.data.annotations.summary import summarise
from yolo_lightning.data.annotations.yolo import YoloReader


def test_labels_are_clipped_and_truth_is_raw(tmp_path: Path) -> None:
    index = CocoReader(write_coco(tmp_path, coco_document()), "train").read()
    # Image b is 60 x 40 px; classes: dog 0, cat 1.
    assert index.labels(1).tolist() == [[1, 10, 10, 30, 30], [0, 50, 30, 60, 40]]
    assert index.truth(1).tolist() == [
        [1, 10, 10, 30, 30, 400, 0],
        [0, 50, 30, 80, 60, 900, 0],
        [1, 10, 10, 30, 30, 400, 0],
        [0, 70, 5, 80, 15, 100, 0],
        [0, 0, 0, 60, 40, 2400, 1],
    ]
    assert index.labels(2).shape == (0, 5) and index.truth(2).shape == (0, 7)
    assert index.most_labels == 5


def test_report_counts_and_names_the_annotation(tmp_path: Path) -> None:
    path = write_coco(tmp_path, coco_document())
    index = CocoReader(path, "train").read()
    assert [str(finding).split(": ")[1] for finding in index.findings] == [
        "annotation 104", "annotation 103", "annotation 102"]  # fmt: skip
    assert summarise(index, "train").splitlines()[:4] == [
        "train: 3 images (1 without labels), 6 labels of 2 classes",
        "  labels by class: dog 4, cat 2",
        "  box sizes: 5 small, 1 medium, 0 large; side 10 to 49 px, median 20 px",  # areas 123, 3 x 400 ...
        "  labels clipped to the image: 1; without area, not trained on: 1; duplicate, not trained on: 1; "
        "crowd, not trained on: 1",
    ]


def test_long_lists_of_problems_are_cut_on_screen_with_their_total(tmp_path: Path) -> None:
    index = _index(np.tile([[50.0, 5, 70, 20]], (40, 1)))
    assert len(index.findings) == 40 + 39  # all clipped, all but the first repeated
    lines = summarise(index).splitlines()
    assert lines[-14].strip() == "warning: 40 of 'box out of the image':" and len(lines) == 18
    assert lines[-8].strip() == "... and 35 more" and lines[-1].strip() == "... and 34 more"


def _index(boxes: np.ndarray) -> DatasetIndex:
    n = len(boxes)
    return build_index(
        root=Path("/x"), split="train", source=Path("/x/a.json"), class_names=("a",),
        category_ids=np.array([1]), paths=["/x/a.png"], image_ids=np.array([1]),
        sizes=np.array([[40, 60]], np.int32),
        annotations=Annotations(
            image=np.zeros(n, np.int64), row_id=np.arange(n), classes=np.zeros(n, np.int64),
            boxes=boxes, areas=np.ones(n), crowd=np.zeros(n, np.bool_),
        ),
        describe=lambda path, row: f"{path}: {row}",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("box", "trainable", "clipped"),
    [
        ([0, 0, 60, 40], True, False),
        ([-0.01, 0, 60.01, 40], True, False),  # rounding of the text
        ([-1, 0, 10, 10], True, True),
        ([60, 0, 70, 10], False, False),
        ([59.99, 0, 70, 10], False, False),
        ([5, 5, 5, 9], False, False),
        ([9, 5, 5, 9], False, False),  # inside out
    ],
)
def test_which_boxes_are_trained_on(box: list[float], trainable: bool, clipped: bool) -> None:
    index = _index(np.array([box], np.float64))
    assert bool(index.trainable[0]) == trainable
    assert any("is clipped" in str(finding) for finding in index.findings) == clipped
    np.testing.assert_array_equal(index.boxes[0], np.float32(box))


def test_duplicates_need_equal_class_and_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 400
    image, classes = rng.integers(0, 3, n), rng.integers(0, 2, n)
    boxes = np.sort(rng.integers(0, 4, (n, 2, 2)), axis=1).reshape(n, 4) * 5.0
    crowd = rng.random(n) < 0.1
    index = build_index(
        root=tmp_path, split="train", source=tmp_path / "a", class_names=("a", "b"),
        category_ids=np.array([1, 2]), paths=["/c", "/a", "/b"], image_ids=np.array([1, 2, 3]),
        sizes=np.array([[40, 60]] * 3, np.int32),
        annotations=Annotations(image, np.arange(n), classes, boxes, np.ones(n), crowd),
        describe=lambda path, row: f"{path}: {row}",
    )  # fmt: skip
    expected = []
    for i in (1, 2, 0):  # by path
        seen = set()
        for row in np.flatnonzero(image == i):
            x1, y1, x2, y2 = boxes[row]
            key = (classes[row], *boxes[row])
            usable = not crowd[row] and x2 > x1 and y2 > y1
            expected.append(usable and key not in seen)
            if usable:
                seen.add(key)
    assert index.trainable.tolist() == expected
    assert any("repeats" in str(finding) for finding in index.findings)


def test_images_with_errors_are_left_out_with_their_labels() -> None:
    finding = Finding("broken", "/b", "it is broken", "mend it", "/b", is_error=True)
    index = build_index(
        root=Path("/"), split="train", source=Path("/a"), class_names=("a",),
        category_ids=np.array([1]), paths=["/c", "/b", "/a"], image_ids=np.array([3, 2, 1]),
        sizes=np.array([[40, 60]] * 3, np.int32),
        annotations=Annotations(
            image=np.array([1, 0, 2, 1, 0]), row_id=np.arange(5), classes=np.zeros(5, np.int64),
            boxes=np.array([[n, 0, n + 9.0, 9] for n in range(5)]), areas=np.ones(5), crowd=np.zeros(5, bool),
        ),
        describe=lambda path, row: f"{path}: {row}",
        findings=[finding],
    )  # fmt: skip
    assert index.paths() == ["/a", "/c"] and index.image_ids.tolist() == [1, 3]
    assert [index.labels(i)[:, 1].tolist() for i in range(2)] == [[2], [1, 4]]
    assert [*map(str, index.findings)] == ["/b: it is broken; mend it"]


def test_ids_from_paths() -> None:
    assert ids_from_paths(["/a/007.jpg", "/b/12.jpg"]).tolist() == [7, 12]
    assert ids_from_paths(["/a/7.jpg", "/b/7.jpg"]).tolist() == [1, 2]
    assert ids_from_paths(["/a/7.jpg", "/a/x8.jpg"]).tolist() == [1, 2]
    assert ids_from_paths([]).tolist() == []


def test_missing_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    paths = [str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "none" / "a")]
    assert missing_files(paths) == paths[1:]


def test_paths_survive_other_alphabets(tmp_path: Path) -> None:
    document = coco_document()
    for entry, name in zip(document["images"], ("ü b.png", "狗.png", "a.png"), strict=True):
        entry["file_name"] = name
    index = CocoReader(write_coco(tmp_path, document), "train").read()
    assert [index.path(i).name for i in range(3)] == ["a.png", "ü b.png", "狗.png"]
    assert all(index.path(i).is_file() for i in range(3))


@pytest.mark.skipif(not (SHARED / "bccd").is_dir(), reason="needs BCCD")
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_bccd_reads_the_same_as_coco_and_as_yolo(split: str) -> None:
    root = SHARED / "bccd"
    coco = CocoReader(root / f"annotations/instances_{split}.json", split).read()
    yolo = YoloReader(root / "data.yaml", split).read()
    assert [coco.path(i) for i in range(len(coco))] == [yolo.path(i) for i in range(len(yolo))]
    assert coco.class_names == yolo.class_names
    for name in ("category_ids", "image_ids", "sizes", "offsets", "classes", "crowd", "trainable"):
        np.testing.assert_array_equal(getattr(coco, name), getattr(yolo, name), err_msg=name)
    np.testing.assert_allclose(coco.boxes, yolo.boxes, atol=1e-3)
    np.testing.assert_allclose(coco.areas, yolo.areas, rtol=1e-3)


@pytest.mark.skipif(not (SHARED / "coco8").is_dir(), reason="needs coco8")
def test_coco8_keeps_the_ids_of_coco() -> None:
    index = YoloReader(SHARED / "coco8/coco8.yaml", "val").read()
    assert index.image_ids.tolist() == [36, 42, 49, 61]
    assert len(index.class_names) == 80 and len(index.classes) == 17


def test_a_subset_and_a_joined_index_hold_the_same_images(tmp_path: Path) -> None:
    labels = {"a": "0 .5 .5 .2 .2\n1 .5 .5 .4 .4\n", "b": "", "c": "1 .3 .3 .2 .2\n", "d": None}
    write_yolo(tmp_path, labels)
    write_yolo(tmp_path, {"e": "0 .5 .5 .6 .6\n", "f": "1 .2 .2 .1 .1\n"}, split="val")
    train, val = (DataSource(tmp_path).read(split) for split in ("train", "val"))

    def contents(index: DatasetIndex, i: int) -> tuple[Any, ...]:
        return index.path(i), index.sizes[i].tolist(), index.truth(i).tolist(), index.labels(i).tolist()

    part = train.subset(np.array([2, 0]))
    assert [contents(part, 0), contents(part, 1)] == [contents(train, 2), contents(train, 0)]
    assert part.image_ids.tolist() == train.image_ids[[2, 0]].tolist() and len(part) == 2
    assert len(train.subset(np.array([], np.int64))) == 0
    whole = join(train, val)
    assert [contents(whole, i) for i in range(6)] == [
        *(contents(train, i) for i in range(4)), *(contents(val, i) for i in range(2)),
    ]  # fmt: skip
    assert whole.image_ids.tolist() == [*range(6)]
    assert len(join(train, train.subset(np.array([1])))) == 4  # an image of both splits is there once
