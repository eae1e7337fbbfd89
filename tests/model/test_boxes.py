from __future__ import annotations

import math

import pytest
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from yolo_lightning.data.letterbox import from_letterbox, letterbox_geometry, to_letterbox
from yolo_lightning.model.boxes import complete_iou, xywh_to_xyxy, xyxy_to_xywh


def random_boxes(count: int, seed: int, size: float = 640.0) -> Tensor:
    """xyxy (count, 4), sides of 1 px to half the picture, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator, dtype=torch.float64) * size / 2
    sides = 1 + torch.rand(count, 2, generator=generator, dtype=torch.float64) * size / 2
    return torch.cat((low, low + sides), dim=-1)


def letterbox_of(height: int, width: int, size: int) -> Tensor:
    box = letterbox_geometry(height, width, (size, size))
    return torch.tensor([box.gain_x, box.gain_y, box.pad_x, box.pad_y], dtype=torch.float64)


def test_formats_by_hand() -> None:
    corners = torch.tensor([[10.0, 20.0, 30.0, 80.0]])
    centres = torch.tensor([[20.0, 50.0, 20.0, 60.0]])
    assert torch.equal(xyxy_to_xywh(corners), centres)
    assert torch.equal(xywh_to_xyxy(centres), corners)


@pytest.mark.parametrize("shape", [(7, 4), (2, 3, 4), (0, 4), (4,)])
def test_formats_equal_torchvision_in_every_shape(shape: tuple[int, ...]) -> None:
    boxes = random_boxes(math.prod(shape[:-1]), seed=1).reshape(shape)
    expected = torchvision.ops.box_convert(boxes, "xyxy", "cxcywh")
    torch.testing.assert_close(xyxy_to_xywh(boxes), expected)
    torch.testing.assert_close(xywh_to_xyxy(expected), boxes)


def worked_complete_iou(first: list[float], second: list[float]) -> float:
    """The formula of the paper for one pair of xywh boxes, in plain floats."""
    (xa, ya, wa, ha), (xb, yb, wb, hb) = first, second
    left, right = max(xa - wa / 2, xb - wb / 2), min(xa + wa / 2, xb + wb / 2)
    top, bottom = max(ya - ha / 2, yb - hb / 2), min(ya + ha / 2, yb + hb / 2)
    intersection = max(0.0, right - left) * max(0.0, bottom - top)
    iou = intersection / (wa * ha + wb * hb - intersection)
    hull_w = max(xa + wa / 2, xb + wb / 2) - min(xa - wa / 2, xb - wb / 2)
    hull_h = max(ya + ha / 2, yb + hb / 2) - min(ya - ha / 2, yb - hb / 2)
    distance = ((xa - xb) ** 2 + (ya - yb) ** 2) / (hull_w**2 + hull_h**2)
    v = 4 / math.pi**2 * (math.atan(wb / hb) - math.atan(wa / ha)) ** 2
    alpha = v / (1 - iou + v) if v else 0.0
    return iou - distance - alpha * v


def test_complete_iou_by_hand() -> None:
    # Squares of side 2, centres 1 apart: IoU 2/6, hull 3 x 2, so 1/3 - 1/13.
    first, second = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 0, 2, 2])
    assert complete_iou(first, second).item() == pytest.approx(1 / 3 - 1 / 13, abs=1e-6)
    # Apart: squares of side 1, centres (3, 4) apart: hull 4 x 5.
    first, second = torch.tensor([0.0, 0, 1, 1]), torch.tensor([3.0, 4, 1, 1])
    assert complete_iou(first, second).item() == pytest.approx(-25 / 41, abs=1e-6)
    # One centre, 4 x 2 against 2 x 4: IoU 4/12, and only the shapes differ.
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
    first, second = torch.tensor([0.0, 0, 4, 2]), torch.tensor([0.0, 0, 2, 4])
    assert complete_iou(first, second).item() == pytest.approx(1 / 3 - v * v / (2 / 3 + v), abs=1e-6)


side = st.floats(0.5, 600)
place = st.floats(-100, 700)
box = st.tuples(place, place, side, side)


@given(box, box)
@settings(deadline=None)
def test_complete_iou_follows_the_formula(first: tuple[float, ...], second: tuple[float, ...]) -> None:
    found = complete_iou(torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64))
    assert found.item() == pytest.approx(worked_complete_iou(list(first), list(second)), abs=1e-5)
    assert found.item() <= 1


def test_complete_iou_equals_torchvision() -> None:
    first, second = random_boxes(200, seed=6), random_boxes(200, seed=7)
    expected = torchvision.ops.complete_box_iou(first, second).diagonal()
    found = complete_iou(xyxy_to_xywh(first), xyxy_to_xywh(second))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_complete_iou_has_the_gradient_of_the_paper() -> None:
    # torchvision's loss also holds alpha constant; its gradient is an independent one.
    predicted, wanted = random_boxes(100, seed=8), random_boxes(100, seed=9)
    ours = predicted.clone().requires_grad_()
    (1 - complete_iou(xyxy_to_xywh(ours), xyxy_to_xywh(wanted))).sum().backward()
    theirs = predicted.clone().requires_grad_()
    torchvision.ops.complete_box_iou_loss(theirs, wanted, reduction="sum").backward()
    assert ours.grad is not None
    assert ours.grad.abs().max() > 1e-4
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "pair",
    [
        [(0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 1.0)],  # a padded row against a padded row
        [(320.0, 320.0, 8.0, 8.0), (0.0, 0.0, 1.0, 1.0)],
        [(0.0, 0.0, 1e-3, 640.0), (600.0, 600.0, 640.0, 1e-3)],
    ],
)
def test_complete_iou_and_its_gradient_are_finite(pair: list[tuple[float, ...]]) -> None:
    first = torch.tensor(pair[0], requires_grad=True)
    value = complete_iou(first, torch.tensor(pair[1]))
    value.backward()
    assert torch.isfinite(value)
    assert first.grad is not None
    assert torch.isfinite(first.grad).all()


def test_complete_iou_of_a_box_with_itself_is_one() -> None:
    boxes = xyxy_to_xywh(random_boxes(20, seed=10))
    torch.testing.assert_close(complete_iou(boxes, boxes), torch.ones(20, dtype=torch.float64))


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [
        (480, 640, 640, (480, 640, 0, 80)),
        (480, 640, 320, (240, 320, 0, 40)),
        (427, 640, 640, (427, 640, 0, 106)),  # 213 rows of padding: 106 above, 107 below
        (1000, 300, 640, (640, 192, 224, 0)),
        (333, 500, 640, (427, 640, 0, 106)),  # 426.24 rows round up
        (320, 320, 320, (320, 320, 0, 0)),
        (50, 50, 640, (640, 640, 0, 0)),  # small pictures grow
        (1, 5000, 640, (1, 640, 0, 319)),
    ],
)
def test_letterbox_by_hand(height: int, width: int, size: int, expected: tuple[int, int, int, int]) -> None:
    found = letterbox_geometry(height, width, (size, size))
    assert (found.height, found.width, found.pad_x, found.pad_y) == expected
    assert found.gain_x == found.width / width
    assert found.gain_y == found.height / height


@given(st.integers(1, 8000), st.integers(1, 8000), st.integers(1, 40).map(lambda n: 32 * n))
def test_letterbox_fills_the_longer_side_and_stays_inside(height: int, width: int, size: int) -> None:
    found = letterbox_geometry(height, width, (size, size))
    assert max(found.height, found.width) == size
    assert 1 <= min(found.height, found.width) <= size
    assert 0 <= size - found.width - 2 * found.pad_x <= 1
    assert 0 <= size - found.height - 2 * found.pad_y <= 1
    # Exact arithmetic: the shorter side is its product with size / longer, rounded up.
    exact = -(-min(height, width) * size // max(height, width))
    assert min(found.height, found.width) == max(1, exact)


def test_boxes_are_carried_into_the_letterbox() -> None:
    boxes = torch.tensor([[0.0, 0, 640, 480], [100, 50, 300, 450]], dtype=torch.float64)
    found = to_letterbox(boxes, letterbox_of(480, 640, 320))
    assert found.tolist() == [[0.0, 40, 320, 280], [50, 65, 150, 265]]


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([320, 640, 1280]), st.integers(0, 99))
@settings(deadline=None)
def test_the_way_back_from_the_letterbox_is_the_inverse(
    height: int, width: int, size: int, seed: int
) -> None:
    assume(max(height, width) < 1000 * min(height, width))
    fractions = random_boxes(5, seed, size=1.0)
    unit = torch.cat((fractions[:, :2], fractions[:, 2:] - 1), dim=-1)  # corners in 0..1
    boxes = unit * torch.tensor([width, height, width, height])
    transform = letterbox_of(height, width, size)
    inside = to_letterbox(boxes, transform)
    assert (inside >= -1e-9).all()
    assert (inside <= size + 1e-9).all()
    back = from_letterbox(inside[None], transform[None], torch.tensor([[height, width]]))[0]
    torch.testing.assert_close(back, boxes)


def test_boxes_beyond_the_picture_are_clipped_on_the_way_back() -> None:
    transform = torch.stack((letterbox_of(480, 640, 640), letterbox_of(640, 480, 640)))
    sizes = torch.tensor([[480, 640], [640, 480]])
    boxes = torch.tensor([[[-5.0, 10, 700, 630]], [[10.0, -5, 630, 700]]], dtype=torch.float64)
    found = from_letterbox(boxes, transform, sizes)
    assert found.tolist() == [[[0, 0, 640, 480]], [[0, 0, 480, 640]]]
