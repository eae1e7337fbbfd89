from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from yolo_lightning.data.batch import Batch
from yolo_lightning.evaluation.detect import MeanLosses, detect, non_max_suppression
from yolo_lightning.model.network import build_network


def test_one_hot_cell_comes_back_in_original_pixels() -> None:
    # An image of 128 x 64 px letterboxed to 64: gain 0.5, 16 rows of padding above.
    network = build_network("yolov5n", 2)
    maps = [torch.full((1, 3, 64 // s, 64 // s, 7), -20.0) for s in (8, 16, 32)]
    # Stride 16, row 1, column 2, anchor 0 (30 x 61 px): centre ((0.5 * 2 - 0.5) + cell) * 16 = (40, 24),
    # sides 1 x anchor at sigmoid 0.5.
    maps[1][0, 0, 1, 2] = torch.tensor([0.0, 0.0, 0.0, 0.0, 20.0, -20.0, 20.0])
    empty = torch.zeros(1, dtype=torch.int64)
    batch = Batch(
        images=torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        targets=torch.zeros(1, 16, 5),
        count=empty,
        index=empty,
        image_ids=empty,
        original_sizes=torch.tensor([[64, 128]]),
        letterbox=torch.tensor([[0.5, 0.5, 0.0, 16.0]]),
        truth=torch.zeros(1, 0, 7),
        truth_count=empty,
    )
    detections, counts = detect(network.head, maps, batch, score_threshold=0.5)
    assert counts.tolist() == [1]
    # Letterboxed (25, -6.5, 55, 54.5); minus the padding and doubled, then clipped to 128 x 64.
    expected = torch.tensor([50.0, 0.0, 110.0, 64.0, 1.0, 1.0])
    torch.testing.assert_close(detections[0, 0], expected, rtol=1e-4, atol=1e-4)


def test_losses_are_weighted_by_the_images_of_their_batches() -> None:
    losses = MeanLosses(("loss", "box_loss"))
    losses.add({"box_loss": torch.tensor(1.0), "loss": torch.tensor(4.0)}, images=3)
    losses.add({"box_loss": torch.tensor(5.0), "loss": torch.tensor(8.0)}, images=1)
    means = losses.take(torch.device("cpu"))
    assert {name: float(value) for name, value in means.items()} == {"loss": 5.0, "box_loss": 2.0}
    assert all(torch.isnan(value) for value in losses.take(torch.device("cpu")).values())  # a new start


Row = tuple[float, float, float, float, float, int]


def iou(a: Row, b: Row) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def slow_suppression(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    iou_threshold: float,
    most: int,
    multi_label: bool,
    class_agnostic: bool = False,
    classes: tuple[int, ...] | None = None,
) -> list[Row]:
    """The definition, a box at a time, for one image."""
    rows: list[Row] = []
    for box, row in zip(boxes.tolist(), scores.tolist(), strict=True):
        for label, score in enumerate(row):
            is_wanted = classes is None or label in classes
            if score > threshold and is_wanted and (multi_label or label == row.index(max(row))):
                rows.append((*box, score, label))
    rows.sort(key=lambda row: -row[4])
    kept: list[Row] = []
    for row in rows:
        rivals = [other for other in kept if class_agnostic or other[5] == row[5]]
        if not any(iou(row, other) > iou_threshold for other in rivals):
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


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize(("class_agnostic", "classes"), [(True, None), (False, (3, 1)), (True, (0, 4))])
def test_suppression_across_classes_and_of_some_equals_the_definition(
    multi_label: bool, class_agnostic: bool, classes: tuple[int, ...] | None
) -> None:
    boxes, scores = random_boxes(3, images=2, number=80, classes=5)
    options = {"multi_label": multi_label, "class_agnostic": class_agnostic, "classes": classes}
    found, counts = non_max_suppression(boxes, scores, 0.1, 0.45, max_detections=20, **options)  # type: ignore[arg-type]
    for image in range(2):
        expected = slow_suppression(boxes[image], scores[image], 0.1, 0.45, 20, **options)  # type: ignore[arg-type]
        assert expected != slow_suppression(boxes[image], scores[image], 0.1, 0.45, 20, multi_label)
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


@pytest.mark.parametrize("multi_label", [False, True])
def test_each_class_can_have_a_threshold_of_its_own(multi_label: bool) -> None:
    boxes, scores = random_boxes(5, 2, 60, 3)
    least = torch.tensor([0.3, 0.6, 0.9])
    found, counts = non_max_suppression(boxes, scores, least, multi_label=multi_label)
    every, of_every = non_max_suppression(boxes, scores, 0.1, multi_label=multi_label)
    for rows, count, all_rows, number in zip(found, counts, every, of_every, strict=True):
        all_rows = all_rows[:number]
        # A box that is too sure of nothing suppresses only those that are less sure of the same class.
        expected = all_rows[all_rows[:, 4] > least[all_rows[:, 5].long()]]
        assert 0 < count < number and torch.equal(rows[:count], expected)
