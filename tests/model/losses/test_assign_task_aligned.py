from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from tests.support.label_tables import join
from yolo_lightning.model.losses import assign_task_aligned as task_aligned
from yolo_lightning.model.losses.assign_task_aligned import Assignment, assign, learning_points

os.environ.setdefault("YOLO_OFFLINE", "true")
from ultralytics.utils.tal import TaskAlignedAssigner


@pytest.fixture(params=["lists", "fixed shapes"], autouse=True)
def may_list(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways of going through labels and points: eager CPU code's, and that of all others."""
    if request.param == "fixed shapes":
        monkeypatch.setattr(task_aligned, "may_list", lambda tensor: False)
    return bool(request.param == "lists")


SIZE = 64
STRIDES = (8, 16, 32)


def grid_points() -> Tensor:
    """Centres of the cells of all levels, (P, 2) px."""
    points = []
    for stride in STRIDES:
        centres = torch.arange(SIZE // stride) * stride + stride / 2
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        points.append(torch.stack((x, y), dim=-1).reshape(-1, 2))
    return torch.cat(points)


def run(logits: Tensor, boxes: Tensor, targets: Tensor, mask: Tensor, top_k: int = 10) -> Assignment:
    return assign(
        logits,
        boxes,
        grid_points(),
        *join(targets, mask),
        shortest_side_px=STRIDES[1],
        top_k=top_k,
        alpha=0.5,
        beta=6.0,
    )


def scene(counts: tuple[int, ...], classes: int, noise_px: float, seed: int) -> tuple[Tensor, ...]:
    """Crowded labels, and predictions that are a random label of the image, moved by some noise."""
    generator = torch.Generator().manual_seed(seed)
    batch, capacity, points = len(counts), 16, len(grid_points())
    centre = torch.rand(batch, capacity, 2, generator=generator) * SIZE
    sides = torch.exp(torch.rand(batch, capacity, 2, generator=generator) * 3 + 1)
    boxes = torch.cat(((centre - sides / 2).clamp(0), (centre + sides / 2).clamp(max=SIZE)), dim=-1)
    labels = torch.randint(0, classes, (batch, capacity, 1), generator=generator).float()
    mask = torch.arange(capacity) < torch.tensor(counts)[:, None]
    targets = torch.cat((labels, boxes), dim=-1) * mask[..., None]
    picked = torch.randint(0, capacity, (batch, points, 1), generator=generator).expand(-1, -1, 4)
    predicted = boxes.gather(1, picked) + torch.randn(batch, points, 4, generator=generator) * noise_px
    corners = predicted.unflatten(-1, (2, 2))
    predicted = torch.cat((corners.amin(dim=2), corners.amax(dim=2) + 0.5), dim=-1)
    logits = torch.randn(batch, classes, points, generator=generator) * 2
    return logits, predicted, targets, mask


def assert_equals_ultralytics(
    logits: Tensor, boxes: Tensor, targets: Tensor, mask: Tensor, top_k: int = 10
) -> None:
    theirs = TaskAlignedAssigner(
        topk=top_k, num_classes=logits.shape[1], alpha=0.5, beta=6.0, stride=list(STRIDES)
    )
    labels, assigned, scores, _, _ = theirs(
        logits.transpose(1, 2).sigmoid(),
        boxes,
        grid_points(),
        targets[..., :1],
        targets[..., 1:],
        mask[..., None].float(),
    )
    row, score = run(logits, boxes, targets, mask, top_k)
    torch.testing.assert_close(score, scores.sum(dim=-1), rtol=1e-5, atol=1e-7)
    learning = score > 0
    assert learning.sum() >= 10
    ours = targets.flatten(0, 1)[row]  # (B, P, 5)
    assert torch.equal(ours[..., 1:][learning], assigned[learning])
    assert torch.equal(ours[..., 0][learning], labels[learning].float())


@pytest.mark.parametrize("top_k", [10, 3])
@pytest.mark.parametrize("noise_px", [0.0, 4.0, 40.0])
@pytest.mark.parametrize("classes", [1, 5])
def test_equals_ultralytics(classes: int, noise_px: float, top_k: int) -> None:
    logits, boxes, targets, mask = scene((16, 0, 1, 7), classes, noise_px, seed=int(noise_px) + classes)
    assert_equals_ultralytics(logits, boxes, targets, mask, top_k)


@pytest.mark.parametrize("seed", range(8))
def test_labels_that_share_all_their_points(seed: int) -> None:
    """Each label lies three times on the same place, twice of the same class: exact ties."""
    logits, boxes, targets, mask = scene((16, 9, 3, 12), 4, 4.0, seed)
    targets = targets[:, torch.arange(16) // 3]
    targets[:, ::3, 0] = (targets[:, ::3, 0] + 1) % 4
    assert_equals_ultralytics(logits, boxes, targets * mask[..., None], mask)


def test_labels_anywhere_among_boxes_that_are_none() -> None:
    logits, boxes, targets, mask = scene((16, 16, 16, 16), 3, 4.0, seed=2)
    mask = torch.arange(64).view(4, 16) % 3 == 1
    assert_equals_ultralytics(logits, boxes, targets, mask)


@pytest.mark.parametrize("most", [31, 84, 1000])
def test_learning_points_are_all_those_with_a_score(most: int, may_list: bool) -> None:
    score = torch.zeros(3, 84)
    score[0, :30] = torch.rand(30) + 0.1
    score[2, 83] = 1e-30
    points = learning_points(score, most)
    assert set(score.flatten().nonzero().flatten().tolist()) <= set(points.tolist())
    assert len(points.unique()) == len(points) == (31 if may_list else min(most, 3 * 84))


def test_tiny_label_by_hand() -> None:
    """A label of 4 px around (12, 12) counts as 16 px, (4, 4) to (20, 20), for what lies inside."""
    targets = torch.tensor([[[0.0, 10, 10, 14, 14]]])
    points = grid_points()
    boxes = targets[:, :, 1:].expand(1, len(points), 4)  # all predict it perfectly
    row, score = run(torch.zeros(1, 1, len(points)), boxes, targets, torch.ones(1, 1, dtype=torch.bool))
    # Stride 8: 4 and 20 are on the border, so only (12, 12). Stride 16: (8, 8). Stride 32: (16, 16).
    assert points[score[0] > 0].tolist() == [[12, 12], [8, 8], [16, 16]]
    assert score[score > 0].tolist() == pytest.approx([1, 1, 1])
    assert row.tolist() == [[0] * len(points)]


def test_scores_by_hand() -> None:
    """One label of 32 x 32 px; the points of stride 8 predict it with IoU 1, 1/2, or not at all."""
    targets = torch.tensor([[[1.0, 0, 0, 32, 32]]])
    points = grid_points()
    boxes = torch.zeros(1, len(points), 4)
    boxes[0, :, :2], boxes[0, :, 2:] = 60, 61
    boxes[0, 0] = torch.tensor([0.0, 0, 32, 32])
    boxes[0, 1] = torch.tensor([0.0, 0, 32, 16])
    logits = torch.zeros(1, 2, len(points))
    logits[0, 1, 1] = 2.0
    _, score = run(logits, boxes, targets, torch.ones(1, 1, dtype=torch.bool))
    # CIoU of the half box: 1/2 - 8^2 / (32^2 + 32^2) - alpha v with v = 4 / pi^2 (atan 2 - atan 1)^2
    # = 0.041956 and alpha = v / (1/2 + v) = 0.077418: 0.46550. Ratings p^0.5 CIoU^6:
    # sqrt(1/2) * 1 = 0.707107 and sqrt(0.880797) * 0.46550^6 = 0.0095492. The best gets the label's
    # best CIoU, 1, the other the same share of its rating: 0.0095492 / 0.707107 = 0.013505.
    assert score[0, :2].tolist() == pytest.approx([1.0, 0.013505], rel=1e-3)
    assert score[0, 2:].abs().max() == 0


def test_no_label_no_score() -> None:
    logits, boxes, targets, mask = scene((0, 0), 3, 4.0, seed=0)
    _, score = run(logits, boxes, targets, mask)
    assert score.abs().max() == 0


def test_contested_point_goes_to_the_label_it_overlaps_most() -> None:
    targets = torch.tensor([[[0.0, 0, 0, 24, 24], [1, 0, 0, 24, 20]]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    points = grid_points()
    boxes = targets[:, :1, 1:].expand(1, len(points), 4).clone()  # all predict the first label ...
    boxes[0, 0] = targets[0, 1, 1:]  # ... but the first point the second,
    logits = torch.zeros(1, 2, len(points))
    logits[0, 1] = -6  # though its class score is so low that it rates higher for the first.
    row, score = run(logits, boxes, targets, mask, top_k=20)  # all points inside
    assert row[0, 0] == 1
    assert score[0, 0] == pytest.approx(1.0)
    assert set(row[0, 1:][score[0, 1:] > 0].tolist()) == {0}
