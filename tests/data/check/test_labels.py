from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from yolo_lightning.data.annotations.index import Annotations, DatasetIndex, build_index
from yolo_lightning.data.check.labels import check_labels

WIDTH, HEIGHT = 640, 480


def index_of(boxes: np.ndarray, layout: str = "COCO", images: int = 10) -> DatasetIndex:
    """Boxes xyxy in px, spread over the images of 640 x 480 px."""
    n = len(boxes)
    index = build_index(
        root=Path("/x"), split="train", source=Path("/x/a.json"), class_names=("a",),
        category_ids=np.array([1]), paths=[f"/x/{i}.png" for i in range(images)],
        image_ids=np.arange(images), sizes=np.tile(np.array([[HEIGHT, WIDTH]], np.int32), (images, 1)),
        annotations=Annotations(
            image=np.arange(n) % images, row_id=np.arange(n), classes=np.zeros(n, np.int64), boxes=boxes,
            areas=np.ones(n), crowd=np.zeros(n, np.bool_),
        ),
        describe=lambda path, row: f"{path}: {row}",
    )  # fmt: skip
    return index.without([]) if not layout else DatasetIndex(**{**vars(index), "layout": layout})


def random_corners(n: int, seed: int = 0) -> np.ndarray:
    """Boxes of objects of all sizes, anywhere in the image, float64 (n, 4) xyxy in px."""
    rng = np.random.default_rng(seed)
    extent = np.array([WIDTH, HEIGHT]) * rng.beta(1, 3, (n, 2)).clip(0.02, 1)
    corner = rng.uniform(0, 1, (n, 2)) * (np.array([WIDTH, HEIGHT]) - extent)
    return np.concatenate((corner, corner + extent), axis=1)


def kinds(index: DatasetIndex, image_size: int = 640) -> list[str]:
    return [finding.kind for finding in check_labels(index, (image_size, image_size))]


@pytest.mark.parametrize("n", [10, 40, 1000])
@pytest.mark.parametrize("layout", ["COCO", "YOLO"])
def test_sound_boxes_give_no_finding(n: int, layout: str) -> None:
    for seed in range(20):
        assert kinds(index_of(random_corners(n, seed), layout)) == []


@pytest.mark.parametrize("n", [10, 40, 1000])
def test_corners_in_place_of_sizes(n: int) -> None:
    corners = random_corners(n)
    as_coco = np.concatenate((corners[:, :2], corners[:, :2] + corners[:, 2:]), axis=1)
    half = corners[:, 2:] / 2
    as_yolo = np.concatenate((corners[:, :2] - half, corners[:, :2] + half), axis=1)
    for layout, boxes, words in (
        ("COCO", as_coco, "a corner and"),
        ("YOLO", as_yolo, "a centre and"),
        ("Darknet", as_yolo, "a centre and"),
    ):
        (finding,) = check_labels(index_of(boxes, layout), (640, 640))
        assert finding.is_error and "two corners" in finding.what and words in finding.what
        assert f"of {n:,} reach out" in finding.what


def test_boxes_that_reach_out_are_no_corners() -> None:
    boxes = random_corners(100)
    boxes[:60, 2:] += 100  # many reach out, but are no corners
    assert "corners as sizes" not in kinds(index_of(boxes))


def test_large_objects_at_the_top_left_are_no_corners() -> None:
    boxes = np.array([[1.0, 1, 600, 470]] * 10) + np.arange(10)[:, None]
    assert kinds(index_of(boxes)) == kinds(index_of(boxes, "YOLO")) == []


def test_relative_boxes_in_a_coco_file() -> None:
    relative = random_corners(10) / np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
    assert "boxes in 0..1" in kinds(index_of(relative))
    assert "boxes in 0..1" in kinds(index_of(relative, "CSV table"))
    assert "boxes in 0..1" not in kinds(index_of(relative, "YOLO"))


def test_boxes_below_two_px_at_the_training_size() -> None:
    boxes = np.tile([[100.0, 100, 150, 150]], (10, 1))
    boxes[4] = [10, 10, 13, 40]  # 3 px wide
    assert kinds(index_of(boxes)) == [] and kinds(index_of(boxes), 416) == ["tiny box"]
    (finding,) = check_labels(index_of(boxes), (416, 416))
    assert "x 10 to 13, y 10 to 40 is 2.0 x 19.5 px at image size 416" in finding.what
    assert finding.image == "/x/4.png" and finding.severity == "warning"


def test_images_without_labels_are_counted_once() -> None:
    (finding,) = check_labels(index_of(random_corners(4)), (640, 640))
    assert finding.what.startswith("6 of 10 images have no labels") and finding.is_note


def test_no_labels_at_all() -> None:
    assert kinds(index_of(np.zeros((0, 4)))) == ["no labels"]
