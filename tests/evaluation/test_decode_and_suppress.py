from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from yolo_lightning.evaluation.decode_and_suppress import (
    decode_anchor,
    decode_anchor_free,
    non_max_suppression,
)

Row = tuple[float, float, float, float, float, int]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def iou(a: Row, b: Row) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def slow_suppression(
    boxes: Tensor, scores: Tensor, threshold: float, iou_threshold: float, most: int, multi_label: bool
) -> list[Row]:
    """The definition, a box at a time, for one image."""
    rows: list[Row] = []
    for box, row in zip(boxes.tolist(), scores.tolist(), strict=True):
        for label, score in enumerate(row):
            if score > threshold and (multi_label or label == row.index(max(row))):
                rows.append((*box, score, label))
    rows.sort(key=lambda row: -row[4])
    kept: list[Row] = []
    for row in rows:
        if not any(row[5] == other[5] and iou(row, other) > iou_threshold for other in kept):
            kept.append(row)
    return kept[:most]


def random_boxes(seed: int, images: int, number: int, classes: int) -> tuple[Tensor, Tensor]:
    """Boxes in clusters, some beginning left of or above the image, and distinct scores."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand((images, 6, 2), generator=generator) * 300
    pick = torch.randint(0, 6, (images, number), generator=generator)
    centre = centres.gather(1, pick[..., None].expand(-1, -1, 2))
    centre = centre + torch.randn((images, number, 2), generator=generator) * 12
    half = 20 + torch.rand((images, number, 2), generator=generator) * 60
    scores = torch.rand((images, number, classes), generator=generator) ** 3
    return torch.cat((centre - half, centre + half), dim=-1), scores


def assert_rows(found: Tensor, count: Tensor, expected: list[Row]) -> None:
    assert int(count) == len(expected)
    torch.testing.assert_close(
        found[: len(expected)], torch.tensor(expected).reshape(-1, 6), atol=1e-5, rtol=0
    )
    assert not found[len(expected) :].any()


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize(("threshold", "iou_threshold"), [(0.001, 0.6), (0.25, 0.45)])
def test_suppression_equals_the_definition(multi_label: bool, threshold: float, iou_threshold: float) -> None:
    boxes, scores = random_boxes(0, images=4, number=80, classes=5)
    found, counts = non_max_suppression(
        boxes, scores, score_threshold=threshold, iou_threshold=iou_threshold, max_detections=60,
        multi_label=multi_label,
    )  # fmt: skip
    assert found.shape == (4, 60, 6)
    assert counts.dtype == torch.int64
    for image in range(4):
        expected = slow_suppression(boxes[image], scores[image], threshold, iou_threshold, 60, multi_label)
        assert_rows(found[image], counts[image], expected)


def test_suppression_of_many_candidates_equals_the_definition() -> None:
    # Above a thousand boxes torchvision takes another road on the CPU.
    boxes, scores = random_boxes(1, images=1, number=500, classes=4)
    found, counts = non_max_suppression(boxes, scores)
    assert (scores > 0.001).sum() > 1000
    assert_rows(found[0], counts[0], slow_suppression(boxes[0], scores[0], 0.001, 0.6, 300, True))


def test_the_best_candidates_are_the_ones_compared() -> None:
    boxes, scores = random_boxes(2, images=2, number=60, classes=3)
    found, counts = non_max_suppression(boxes, scores, max_candidates=40)
    for image in range(2):
        limit = scores[image].flatten().sort(descending=True).values[40].item()
        expected = slow_suppression(boxes[image], scores[image], limit, 0.6, 300, True)
        assert_rows(found[image], counts[image], expected)


def test_equal_boxes_of_two_classes_both_stay() -> None:
    boxes = torch.tensor([[[10.0, 10.0, 20.0, 20.0], [10.0, 10.0, 20.0, 20.0]]])
    scores = torch.tensor([[[0.9, 0.4], [0.8, 0.3]]])
    found, counts = non_max_suppression(boxes, scores, max_detections=5)
    assert counts.tolist() == [2]
    assert found[0, :2, 4:].tolist() == [[pytest.approx(0.9), 0.0], [pytest.approx(0.4), 1.0]]


def test_negative_coordinates_do_not_mix_the_classes() -> None:
    # Moved by one span of 101 px, as batched NMS does for class 1, the second box would lie on the first.
    boxes = torch.tensor([[[90.0, 90.0, 100.0, 100.0], [-11.0, -11.0, -1.0, -1.0]]])
    scores = torch.tensor([[[0.9, 0.0], [0.0, 0.8]]])
    _, counts = non_max_suppression(boxes, scores)
    assert counts.tolist() == [2]


def test_the_score_threshold_is_exclusive() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 5.0, 5.0], [50.0, 50.0, 60.0, 60.0]]])
    _, counts = non_max_suppression(boxes, torch.tensor([[[0.5], [0.75]]]), score_threshold=0.5)
    assert counts.tolist() == [1]


def test_an_image_without_candidates_is_all_zero() -> None:
    boxes, scores = random_boxes(3, images=2, number=10, classes=2)
    scores[0] = 0
    found, counts = non_max_suppression(boxes, scores)
    assert counts[0] == 0
    assert counts[1] > 0
    assert not found[0].any()


def test_a_box_that_is_not_finite_does_not_spoil_the_others() -> None:
    boxes, scores = random_boxes(4, images=1, number=30, classes=2)
    expected = slow_suppression(boxes[0], scores[0], 0.001, 0.6, 300, True)
    bad = torch.tensor([[[math.nan] * 4, [0.0, 0.0, math.inf, 5.0]]])
    found, counts = non_max_suppression(
        torch.cat((bad, boxes), dim=1), torch.cat((torch.ones(1, 2, 2), scores), dim=1)
    )
    assert_rows(found[0], counts[0], expected)


def test_decode_anchor_equals_the_formula() -> None:
    generator = torch.Generator().manual_seed(5)
    strides = (8, 16)
    anchors = torch.tensor([[[1.25, 1.625], [2.0, 3.75]], [[1.875, 3.8125], [3.875, 2.8125]]])
    maps = [torch.randn((2, 2, *size, 5 + 3), generator=generator) * 2 for size in ((4, 6), (2, 3))]
    boxes, scores = decode_anchor(maps, anchors, strides)
    assert boxes.shape == (2, 2 * 24 + 2 * 6, 4)
    assert scores.shape == (2, 60, 3)
    for image in range(2):
        k = 0
        for level, stride in enumerate(strides):
            for anchor in range(2):
                for row in range(maps[level].shape[2]):
                    for column in range(maps[level].shape[3]):
                        x, y, w, h, obj, *classes = maps[level][image, anchor, row, column].tolist()
                        cx = (2 * sigmoid(x) - 0.5 + column) * stride
                        cy = (2 * sigmoid(y) - 0.5 + row) * stride
                        width = (2 * sigmoid(w)) ** 2 * anchors[level, anchor, 0].item() * stride
                        height = (2 * sigmoid(h)) ** 2 * anchors[level, anchor, 1].item() * stride
                        expected = [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]
                        assert boxes[image, k].tolist() == pytest.approx(expected, abs=1e-4)
                        score = [sigmoid(obj) * sigmoid(value) for value in classes]
                        assert scores[image, k].tolist() == pytest.approx(score, abs=1e-6)
                        k += 1


def test_decode_anchor_free_equals_the_formula() -> None:
    generator = torch.Generator().manual_seed(6)
    strides, reg_max, classes = (8, 16), 4, 2
    maps = [
        torch.randn((2, 4 * reg_max + classes, *size), generator=generator) * 2 for size in ((3, 4), (2, 2))
    ]
    boxes, scores = decode_anchor_free(maps, strides, reg_max)
    assert boxes.shape == (2, 16, 4)
    assert scores.shape == (2, 16, classes)
    for image in range(2):
        k = 0
        for raw, stride in zip(maps, strides, strict=True):
            for row in range(raw.shape[2]):
                for column in range(raw.shape[3]):
                    values = raw[image, :, row, column].tolist()
                    sides = []
                    for side in range(4):
                        weights = [math.exp(v) for v in values[side * reg_max : (side + 1) * reg_max]]
                        sides.append(sum(i * w for i, w in enumerate(weights)) / sum(weights))
                    left, top, right, bottom = sides
                    cx, cy = column + 0.5, row + 0.5
                    expected = [v * stride for v in (cx - left, cy - top, cx + right, cy + bottom)]
                    assert boxes[image, k].tolist() == pytest.approx(expected, abs=1e-4)
                    score = [sigmoid(value) for value in values[4 * reg_max :]]
                    assert scores[image, k].tolist() == pytest.approx(score, abs=1e-6)
                    k += 1


def test_half_precision_maps_are_decoded_in_float32() -> None:
    generator = torch.Generator().manual_seed(7)
    classic = [torch.randn((1, 1, 4, 4, 6), generator=generator).bfloat16()]
    free = [torch.randn((1, 4 * 4 + 1, 4, 4), generator=generator).bfloat16()]
    anchors = torch.ones(1, 1, 2)
    wide = decode_anchor([classic[0].float()], anchors, [32])
    for low, high in (
        (decode_anchor(classic, anchors.bfloat16(), [32]), wide),
        (decode_anchor_free(free, [32], 4), decode_anchor_free([free[0].float()], [32], 4)),
    ):
        for a, b in zip(low, high, strict=True):
            assert a.dtype == torch.float32
            assert torch.equal(a, b)
