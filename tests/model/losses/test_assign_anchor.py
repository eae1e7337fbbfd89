from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from tests.support.label_tables import join
from yolo_lightning.model.losses.assign_anchor import match_candidates

Match = tuple[int, int, int, int]
"""Image, anchor, row and column of a matched cell."""


def matches(boxes: Tensor, anchors: Tensor, size: int, stride: int, threshold: float = 4.0) -> Counter[Match]:
    """How often each cell and anchor is matched with xyxy boxes (B, N, 4) px."""
    targets = torch.cat((torch.zeros_like(boxes[..., :1]), boxes), dim=-1)
    mask = torch.ones(targets.shape[:2], dtype=torch.bool)
    found = match_candidates(
        *join(targets, mask),
        anchors,
        (size // stride, size // stride),
        stride,
        threshold,
    )
    counts: Counter[Match] = Counter()
    for weight, *place in zip(found.weight, found.image, found.anchor, found.row, found.column, strict=True):
        image, anchor, row, column = (int(value) for value in place)
        counts[image, anchor, row, column] += int(weight)
    return +counts


def published_rule(
    boxes: Tensor, anchors: Tensor, size: int, stride: int, threshold: float = 4.0
) -> Counter[Match]:
    """The rule of ultralytics/yolov5 v7.0 in loops: one try for each label, anchor and of five offsets."""
    cells = size // stride
    counts: Counter[Match] = Counter()
    for image, image_boxes in enumerate(boxes.tolist()):
        for x1, y1, x2, y2 in image_boxes:
            x, y, w, h = (
                (x1 + x2) / 2 / stride,
                (y1 + y2) / 2 / stride,
                (x2 - x1) / stride,
                (y2 - y1) / stride,
            )
            for anchor, (anchor_w, anchor_h) in enumerate(anchors.tolist()):
                ratios = [w / anchor_w, anchor_w / w, h / anchor_h, anchor_h / h]
                if max(ratios) >= threshold:
                    continue
                tries = [(0.0, 0.0)]
                if x % 1 < 0.5 and x > 1:
                    tries.append((-0.5, 0.0))
                if y % 1 < 0.5 and y > 1:
                    tries.append((0.0, -0.5))
                if (cells - x) % 1 < 0.5 and cells - x > 1:
                    tries.append((0.5, 0.0))
                if (cells - y) % 1 < 0.5 and cells - y > 1:
                    tries.append((0.0, 0.5))
                for offset_x, offset_y in tries:
                    column = min(max(math.trunc(x + offset_x), 0), cells - 1)
                    row = min(max(math.trunc(y + offset_y), 0), cells - 1)
                    counts[image, anchor, row, column] += 1
    return counts


def test_matches_by_hand() -> None:
    # 16 x 24 px around (26, 30), stride 8: in cells 2 x 3 around (3.25, 3.75). The left and the lower
    # neighbour are nearer than the right and the upper one.
    boxes = torch.tensor([[[18.0, 18, 34, 42]]])
    # Factors between the sides: 1.6 and 1.85 for the first anchor, 2 and 8 for the second.
    anchors = torch.tensor([[10.0, 13.0], [8.0, 3.0]]) / 8
    assert matches(boxes, anchors, size=64, stride=8) == {(0, 0, 3, 3): 1, (0, 0, 3, 2): 1, (0, 0, 4, 3): 1}


def test_cell_counts_twice_on_its_edge() -> None:
    # Centre (28, 24) px, in cells (3.5, 3.0): in the middle of column 3, so no neighbour; on the edge
    # of rows 2 and 3, so the row above, and the own row once more.
    boxes = torch.tensor([[[20.0, 12, 36, 36]]])
    anchors = torch.tensor([[2.0, 3.0]])
    assert matches(boxes, anchors, size=64, stride=8) == {(0, 0, 3, 3): 2, (0, 0, 2, 3): 1}


def test_no_neighbour_outside_the_map() -> None:
    # Centres (2, 2) and (62, 62) px of 64: the nearer neighbours would be column and row -1, and 8.
    boxes = torch.tensor([[[0.0, 0, 4, 4], [60, 60, 64, 64]]])
    anchors = torch.tensor([[1.0, 1.0]])
    assert matches(boxes, anchors, size=64, stride=8) == {(0, 0, 0, 0): 1, (0, 0, 7, 7): 1}


def test_ratio_at_the_threshold_does_not_match() -> None:
    boxes = torch.tensor([[[10.0, 10, 42, 42]]])  # 32 px
    anchors = torch.tensor([[1.0, 1.0], [1.001, 1.001], [16.0, 4.0], [15.99, 4.0]])  # 8, 8.008, 128, 127.9 px
    assert {anchor for _, anchor, _, _ in matches(boxes, anchors, size=64, stride=8)} == {1, 3}


@pytest.mark.parametrize(
    "grid", [1.0, 4.0, 8.0, 1 / 64], ids=lambda grid: f"corners on multiples of {grid} px"
)
@pytest.mark.parametrize("stride", [8, 32])
def test_equals_the_published_rule(grid: float, stride: int) -> None:
    generator = torch.Generator().manual_seed(stride)
    size = 256
    corners = torch.rand(2, 150, 2, 2, generator=generator) * size
    corners = (corners / grid).round() * grid
    low, high = corners.amin(dim=2), corners.amax(dim=2)
    boxes = torch.cat((low, torch.maximum(high, low + grid)), dim=-1)  # up to one grid step over the border
    anchors = torch.tensor([[10.0, 13.0], [62.0, 45.0], [116.0, 90.0]]) / stride
    found = matches(boxes, anchors, size, stride)
    assert found == published_rule(boxes, anchors, size, stride)
    assert len(found) > 100


def test_padding_and_boxes_without_area_match_nothing() -> None:
    targets = torch.tensor([[[0.0, 10, 10, 20, 20], [0, 30, 30, 30, 50], [0, 0, 0, 0, 0]]])
    mask = torch.tensor([[False, True, False]])
    found = match_candidates(
        *join(targets, mask), torch.tensor([[1.0, 1.0]]), (8, 8), stride=8, anchor_threshold=4.0
    )
    assert found.weight.sum() == 0
    assert found.box.isfinite().all()


def test_relative_boxes_by_hand() -> None:
    # 2 x 3 cells around (3.25, 3.75), seen from the corners of cell (3, 3), its left and its lower neighbour.
    targets = torch.tensor([[[5.0, 18, 18, 34, 42]]])
    found = match_candidates(
        *join(targets, torch.ones(1, 1, dtype=torch.bool)),
        torch.tensor([[2.0, 3.0]]),
        (8, 8),
        stride=8,
        anchor_threshold=4.0,
    )
    assert found.box.tolist() == [[0.25, 0.75, 2, 3], [1.25, 0.75, 2, 3], [0.25, -0.25, 2, 3]]
    assert found.label.tolist() == [5.0, 5.0, 5.0]
