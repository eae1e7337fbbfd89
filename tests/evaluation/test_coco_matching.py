from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision

from yolo_lightning.evaluation.coco_matching import (
    Annotations,
    Detections,
    Matches,
    box_areas,
    match,
    order_detections,
    outside_areas,
    overlapping_pairs,
    pair_iou,
)

ALL, SMALL, MEDIUM, LARGE = range(4)


def one_image(
    boxes: list[list[float]], found: list[list[float]], crowd: list[bool], area: list[float]
) -> Matches:
    """Match in one image of one class; ``found`` is best first."""
    return match(
        Detections(
            boxes=np.array(found, np.float32),
            label=np.zeros(len(found), np.int64),
            score=np.linspace(1, 0, len(found), dtype=np.float32),
            group=np.zeros(len(found), np.int64),
            rank=np.arange(len(found)),
        ),
        Annotations(
            boxes=np.array(boxes, np.float32),
            label=np.zeros(len(boxes), np.int64),
            group=np.zeros(len(boxes), np.int64),
            crowd=np.array(crowd),
            ignored=np.array(crowd)[:, None] | outside_areas(np.array(area)),
        ),
    )


def test_an_annotation_is_found_once_and_by_the_best() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    result = one_image([box], [[0, 0, 10, 8.1], box], [False], [100.0])
    assert result.detection.tolist() == [0, 1]
    # The better score has an IoU of 0.81: it takes the annotation up to there, the exact box from 0.85 on.
    assert result.matched[0, ALL].tolist() == [True] * 7 + [False] * 3
    assert result.matched[1, ALL].tolist() == [False] * 7 + [True] * 3
    assert not result.ignored[:, ALL].any()


def test_a_crowd_takes_any_number_and_measures_by_the_detection() -> None:
    result = one_image(
        [[0, 0, 100, 100]], [[0, 0, 10, 10], [50, 50, 60, 60], [95, 95, 105, 105]], [True], [9000.0]
    )
    assert result.detection.tolist() == [0, 1]  # a quarter of the third lies in the crowd
    assert result.matched.all()
    assert result.ignored.all()


def test_an_annotation_that_counts_is_preferred_to_a_better_one_that_does_not() -> None:
    result = one_image([[0, 0, 10, 10], [0, 0, 10, 6.2]], [[0, 0, 10, 10]], [True, False], [100.0, 62.0])
    # IoU 0.62 with the one that counts, 1 with the crowd, which is left for the stricter thresholds.
    assert result.matched[0, ALL].all()
    assert result.ignored[0, ALL].tolist() == [False] * 3 + [True] * 7


def test_the_annotated_area_decides_the_range_and_ends_belong_to_both() -> None:
    box = [0.0, 0.0, 50.0, 50.0]
    result = one_image([box], [box], [False], [1024.0])
    assert result.ignored[0, [ALL, SMALL, MEDIUM, LARGE], 0].tolist() == [False, False, False, True]


def test_images_and_classes_do_not_mix() -> None:
    boxes = np.tile(np.array([[0, 0, 10, 10]], np.float32), (3, 1))
    found = order_detections(
        np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([0.5, 0.9, 0.7]), boxes, num_classes=2
    )
    truth = Annotations(
        boxes[:1], np.array([0]), np.array([2]), np.array([False]), outside_areas(np.array([100.0]))
    )  # image 1, class 0
    result = match(found, truth)
    assert [int(found.group[row]) for row in result.detection] == [2]


def test_detections_are_ordered_by_class_and_score_and_ties_by_image() -> None:
    image, label = np.array([2, 0, 1, 1, 0]), np.array([0, 1, 0, 0, 0])
    score = np.array([0.5, 0.9, 0.5, 0.8, 0.5])
    boxes = np.arange(5, dtype=np.float32)[:, None].repeat(4, axis=1)
    found = order_detections(image, label, score, boxes, num_classes=2)
    assert found.boxes[:, 0].tolist() == [3, 4, 2, 0, 1]
    assert found.label.tolist() == [0, 0, 0, 0, 1]
    assert found.rank.tolist() == [0, 0, 1, 0, 0]


def test_the_size_of_the_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 30, (200, 2))
    boxes = np.concatenate((low, low + rng.uniform(5, 30, (200, 2))), axis=1).astype(np.float32)
    crowd, area = rng.random(20) < 0.2, rng.uniform(0, 2000, 20)
    arguments = (boxes[:20].tolist(), boxes[20:].tolist(), crowd.tolist(), area.tolist())
    whole = one_image(*arguments)
    assert len(whole.detection) > 50
    monkeypatch.setattr("yolo_lightning.evaluation.coco_matching._PAIRS_AT_ONCE", 64)
    parts = one_image(*arguments)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)


FIRST = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 0, 0]])
SECOND = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [22, 22, 24, 24], [0, 0, 0, 0]])
NO_CROWD = np.zeros(5, bool)


def test_iou_by_hand() -> None:
    assert box_areas(SECOND).tolist() == [100, 100, 100, 4, 0]
    assert pair_iou(FIRST, SECOND, NO_CROWD).tolist() == [1.0, 50 / 150, 0.0, 4 / 100, 0.0]
    assert pair_iou(FIRST, SECOND, ~NO_CROWD).tolist() == [1.0, 0.5, 0.0, 4 / 100, 0.0]  # over the first


def test_iou_equals_torchvision() -> None:
    generator = torch.Generator().manual_seed(2)
    low = torch.rand(2, 60, 2, generator=generator, dtype=torch.float64) * 100
    boxes = torch.cat(
        (low, low + 1 + torch.rand(2, 60, 2, generator=generator, dtype=torch.float64) * 200), 2
    )
    found = pair_iou(boxes[0].numpy(), boxes[1].numpy(), np.zeros(60, bool))
    expected = torchvision.ops.box_iou(boxes[0], boxes[1]).diagonal()
    torch.testing.assert_close(torch.from_numpy(found), expected)
    assert 10 < (found > 0).sum() < 60


def test_only_boxes_of_one_group_are_paired() -> None:
    group = np.arange(5)
    d, g, iou = overlapping_pairs(group, FIRST, group[::-1], SECOND, NO_CROWD, 0.3)
    assert d.size == g.size == iou.size == 0
    boxes = FIRST.astype(np.float32)
    d, g, iou = overlapping_pairs(group // 3, boxes, group // 3, SECOND.astype(np.float32), NO_CROWD, 0.3)
    assert sorted(zip(d, g, iou.round(3), strict=True)) == [
        (row, column, iou) for row in range(3) for column, iou in ((0, 1.0), (1, 0.333))
    ]
