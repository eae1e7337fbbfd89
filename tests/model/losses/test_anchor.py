from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from tests.support.label_tables import join
from yolo_lightning.errors import InputError
from yolo_lightning.model.losses import AnchorLoss, AnchorLossConfig, assign_anchor


@pytest.fixture(params=["lists", "fixed shapes"], autouse=True)
def may_list(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of going through labels: eager CPU code's, and that of all others."""
    if request.param == "fixed shapes":
        monkeypatch.setattr(assign_anchor, "may_list", lambda tensor: False)


SIZE = 64
STRIDES = (8, 16, 32)
ANCHORS = (
    torch.tensor(
        [
            [[10.0, 13], [16, 30], [33, 23]],
            [[30, 61], [62, 45], [59, 119]],
            [[116, 90], [156, 198], [373, 326]],
        ]
    )
    / torch.tensor(STRIDES)[:, None, None]
)


def random_maps(classes: int, batch: int = 2, seed: int = 0) -> list[Tensor]:
    """What the head gives: (B, A, H, W, 5+C) as views of the convolutions' (B, A*(5+C), H, W)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, 3, 5 + classes, SIZE // stride, SIZE // stride) for stride in STRIDES]
    return [
        torch.randn(shape, generator=generator).permute(0, 1, 3, 4, 2).requires_grad_() for shape in shapes
    ]


def random_targets(
    classes: int, counts: tuple[int, ...], capacity: int = 12, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Labels on multiples of 1/4 px, so that double precision finds the same matches; junk as padding."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(counts), capacity)
    centre = torch.rand(*shape, 2, generator=generator) * SIZE
    sides = torch.exp(torch.rand(*shape, 2, generator=generator) * 2.5 + 1.5)
    low, high = (centre - sides / 2).clamp(0, SIZE - 4), (centre + sides / 2).clamp(4, SIZE)
    boxes = (torch.cat((low, high), dim=-1) * 4).round() / 4
    label = torch.randint(0, classes, (*shape, 1), generator=generator).float()
    mask = torch.arange(capacity) < torch.tensor(counts)[:, None]
    return torch.where(mask[..., None], torch.cat((label, boxes), dim=-1), torch.nan), mask


def gradients(loss: Tensor, maps: list[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, maps)])


def reference_ciou(predicted: tuple[Tensor, ...], x: float, y: float, w: float, h: float) -> Tensor:
    """CIoU of two xywh boxes, term by term as in section 3 of https://arxiv.org/abs/1911.08287."""
    px, py, pw, ph = predicted
    overlap_w = (
        torch.minimum(px + pw / 2, x + w / 2 + 0 * px) - torch.maximum(px - pw / 2, x - w / 2 + 0 * px)
    ).clamp(0)
    overlap_h = (
        torch.minimum(py + ph / 2, y + h / 2 + 0 * py) - torch.maximum(py - ph / 2, y - h / 2 + 0 * py)
    ).clamp(0)
    iou = overlap_w * overlap_h / (pw * ph + w * h - overlap_w * overlap_h)
    hull_w = torch.maximum(px + pw / 2, x + w / 2 + 0 * px) - torch.minimum(px - pw / 2, x - w / 2 + 0 * px)
    hull_h = torch.maximum(py + ph / 2, y + h / 2 + 0 * py) - torch.minimum(py - ph / 2, y - h / 2 + 0 * py)
    v = 4 / math.pi**2 * (math.atan(w / h) - torch.atan(pw / ph)) ** 2
    alpha = (v / (1 - iou + v)).detach()
    return iou - ((px - x) ** 2 + (py - y) ** 2) / (hull_w**2 + hull_h**2) - alpha * v


def reference_cross_entropy(logit: Tensor, target: float, positive_weight: float, gamma: float) -> Tensor:
    p = torch.sigmoid(logit)
    loss = -(positive_weight * target * torch.log(p) + (1 - target) * torch.log(1 - p))
    if gamma:
        p_t = target * p + (1 - target) * (1 - p)
        loss = loss * (target * 0.25 + (1 - target) * 0.75) * (1 - p_t) ** gamma
    return loss


def reference_loss(
    maps: list[Tensor],
    targets: Tensor,
    mask: Tensor,
    config: AnchorLossConfig,
    class_weights: list[float] | None = None,
) -> Tensor:
    """The definition of ultralytics/yolov5 v7.0 in loops and double precision, the larger IoU winning."""
    classes = maps[0].shape[-1] - 5
    box = objectness = class_ = torch.zeros((), dtype=torch.float64)
    for level, stride in enumerate(STRIDES):
        raw = maps[level].double()
        batch, anchors, rows, columns, _ = raw.shape
        quality: dict[tuple[int, ...], float] = {}
        box_losses, class_losses = [], []
        for image in range(batch):
            for label, x1, y1, x2, y2 in targets[image][mask[image]].tolist():
                x, y, w, h = (
                    (x1 + x2) / 2 / stride,
                    (y1 + y2) / 2 / stride,
                    (x2 - x1) / stride,
                    (y2 - y1) / stride,
                )
                cells = [(x, y)]
                cells += [(x - 0.5, y)] if x % 1 < 0.5 and x > 1 else []
                cells += [(x, y - 0.5)] if y % 1 < 0.5 and y > 1 else []
                cells += [(x + 0.5, y)] if (columns - x) % 1 < 0.5 and columns - x > 1 else []
                cells += [(x, y + 0.5)] if (rows - y) % 1 < 0.5 and rows - y > 1 else []
                for anchor in range(anchors):
                    anchor_w, anchor_h = ANCHORS[level, anchor].tolist()
                    if max(w / anchor_w, anchor_w / w, h / anchor_h, anchor_h / h) >= config.anchor_threshold:
                        continue
                    for cell_x, cell_y in cells:
                        column, row = min(int(cell_x), columns - 1), min(int(cell_y), rows - 1)
                        prediction = raw[image, anchor, row, column]
                        s = torch.sigmoid(prediction[:4])
                        decoded = (
                            2 * s[0] - 0.5,
                            2 * s[1] - 0.5,
                            (2 * s[2]) ** 2 * anchor_w,
                            (2 * s[3]) ** 2 * anchor_h,
                        )
                        ciou = reference_ciou(decoded, x - column, y - row, w, h)
                        box_losses.append(1 - ciou)
                        place = (image, anchor, row, column)
                        quality[place] = max(quality.get(place, 0.0), ciou.item())
                        for other in range(classes):
                            smooth = config.label_smoothing / 2
                            target = 1 - smooth if other == label else smooth
                            class_losses.append(
                                (class_weights or [1.0] * classes)[other]
                                * reference_cross_entropy(
                                    prediction[5 + other],
                                    target,
                                    config.class_positive_weight,
                                    config.focal_gamma,
                                )
                            )
        cell_losses = [
            reference_cross_entropy(
                raw[image, anchor, row, column, 4],
                quality.get((image, anchor, row, column), 0.0),
                config.objectness_positive_weight,
                config.focal_gamma,
            )
            for image in range(batch)
            for anchor in range(anchors)
            for row in range(rows)
            for column in range(columns)
        ]
        objectness = objectness + torch.stack(cell_losses).mean() * (4.0, 1.0, 0.4)[level]
        if box_losses:
            box = box + torch.stack(box_losses).mean()
            class_ = class_ + (torch.stack(class_losses).mean() if classes > 1 else 0.0)
    return (
        box * config.box_gain
        + objectness * config.objectness_gain * (SIZE / 640) ** 2
        + class_ * config.class_gain * classes / 80
    )


@pytest.mark.parametrize(
    ("classes", "counts", "config"),
    [
        (3, (9, 4), AnchorLossConfig()),
        (
            3,
            (0, 12),
            AnchorLossConfig(label_smoothing=0.1, class_positive_weight=2.0, objectness_positive_weight=0.5),
        ),
        (4, (7, 1), AnchorLossConfig(focal_gamma=1.5, label_smoothing=0.05)),
        (1, (5, 5), AnchorLossConfig(anchor_threshold=2.5)),
        (2, (0, 0), AnchorLossConfig()),
    ],
    ids=["defaults", "weights and smoothing", "focal", "one class", "no label"],
)
def test_equals_the_definition_in_loops(
    classes: int, counts: tuple[int, ...], config: AnchorLossConfig
) -> None:
    # Gains that make the parts about as large as one another, so that none hides behind another.
    config = replace(config, box_gain=1.0, objectness_gain=50.0, class_gain=20.0)
    maps = random_maps(classes)
    targets, mask = random_targets(classes, counts)
    expected = reference_loss(maps, targets, mask, config)
    loss, parts = AnchorLoss(ANCHORS, STRIDES, classes, config)(maps, *join(targets, mask))
    torch.testing.assert_close(loss, expected.float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients(loss, maps), gradients(expected, maps), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.stack(list(parts.values())).sum(), loss.detach())
    assert list(parts) == ["box", "obj", "cls"]
    assert not any(part.requires_grad for part in parts.values())
    assert bool(parts["cls"] > 0) == (classes > 1 and sum(counts) > 0)


def test_one_label_by_hand() -> None:
    """One level of stride 8 with one anchor of 10 x 13 px, all logits 0, and a label of 16 x 24 px."""
    raw = torch.zeros(1, 1, 8, 8, 7, requires_grad=True)
    targets = torch.tensor([[[1.0, 18, 18, 34, 42]]])
    criterion = AnchorLoss(torch.tensor([[[1.25, 1.625]]]), [8], 2)
    loss, parts = criterion([raw], *join(targets, torch.ones(1, 1, dtype=torch.bool)))
    # In cells the label is 2 x 3 around (3.25, 3.75): cell (3, 3), the one on the left, the one below.
    # Every prediction is the anchor, 1.25 x 1.625, in the middle of its cell. IoU, d^2 / c^2, CIoU
    # (alpha v is 5e-6 everywhere, from v = 0.405285 (atan(2/3) - atan(1.25/1.625))^2 = 0.0018572):
    #   (3, 3): 2.03125 / 6 = 0.338542, 0.125 / 13 = 0.009615, 0.328921
    #   (2, 3): 1.421875 / 6.609375 = 0.215130, 0.625 / 14.640625 = 0.042689, 0.172436
    #   (3, 4): 1.953125 / 6.078125 = 0.321337, 0.625 / 13.378906 = 0.046715, 0.274616
    # One level instead of three triples the gains: box 0.05 * 3, objectness (64 / 640)^2 * 3 and a
    # balance of 4, class 0.5 * 2 / 80 * 3. The cross-entropy of a logit of 0 is ln 2 for any target.
    assert parts["box"].item() == pytest.approx(0.15 * (1 - (0.328921 + 0.172436 + 0.274616) / 3), abs=1e-6)
    assert parts["obj"].item() == pytest.approx(0.03 * 4 * math.log(2), abs=1e-6)
    assert parts["cls"].item() == pytest.approx(0.0375 * math.log(2), abs=1e-6)
    # The slope of the cross-entropy at 0 is 0.5 - target, so it shows the targets of the 64 cells.
    loss.backward()
    assert raw.grad is not None
    shown = 0.5 - raw.grad[0, 0, :, :, 4] * 64 / (0.03 * 4)
    expected = torch.zeros(8, 8)
    expected[3, 3], expected[3, 2], expected[4, 3] = 0.328921, 0.172436, 0.274616
    torch.testing.assert_close(shown, expected, rtol=0, atol=2e-6)


def test_order_of_the_labels_does_not_matter() -> None:
    maps = random_maps(3, batch=1)
    targets, mask = random_targets(3, (6,), capacity=6)
    # Two labels of other sizes around the same centre share cells and anchors.
    targets[0, 0] = torch.tensor([0.0, 20, 20, 40, 40])
    targets[0, 1] = torch.tensor([1.0, 24, 22, 36, 38])
    criterion = AnchorLoss(ANCHORS, STRIDES, 3)
    loss, _ = criterion(maps, *join(targets, mask))
    other, _ = criterion(maps, *join(targets.flip(1), mask))
    torch.testing.assert_close(other, loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients(other, maps), gradients(loss, maps), rtol=1e-5, atol=1e-8)


def test_capacity_does_not_matter() -> None:
    maps = random_maps(3)
    targets, mask = random_targets(3, (5, 2))
    criterion = AnchorLoss(ANCHORS, STRIDES, 3)
    loss, _ = criterion(maps, *join(targets, mask))
    tight, _ = criterion(maps, *join(targets[:, :5], mask[:, :5]))
    torch.testing.assert_close(tight, loss)


def test_labels_of_the_images_may_be_mixed() -> None:
    maps = random_maps(3)
    targets, mask = join(*random_targets(3, (5, 9)))
    criterion, order = AnchorLoss(ANCHORS, STRIDES, 3), torch.randperm(len(mask))
    loss, _ = criterion(maps, targets, mask)
    mixed, _ = criterion(maps, targets[order], mask[order])
    torch.testing.assert_close(mixed, loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients(mixed, maps), gradients(loss, maps), rtol=1e-5, atol=1e-8)


def test_memory_format_does_not_matter() -> None:
    targets, mask = random_targets(3, (5, 2))
    criterion = AnchorLoss(ANCHORS, STRIDES, 3)
    results = []
    for layout in ((0, 1, 2, 3, 4), (0, 1, 4, 2, 3), (0, 2, 3, 1, 4)):  # contiguous, NCHW, NHWC
        back = [layout.index(dimension) for dimension in range(5)]
        maps = [
            raw.detach().permute(layout).contiguous().permute(back).requires_grad_() for raw in random_maps(3)
        ]
        loss, _ = criterion(maps, *join(targets, mask))
        results.append((loss, gradients(loss, maps)))
    for loss, gradient in results[1:]:
        torch.testing.assert_close(loss, results[0][0])
        torch.testing.assert_close(gradient, results[0][1])


def test_batch_without_labels_is_finite_and_connected() -> None:
    maps = random_maps(3)
    targets, mask = random_targets(3, (0, 0))
    loss, parts = AnchorLoss(ANCHORS, STRIDES, 3)(maps, *join(targets, mask))
    assert parts["box"] == 0
    assert parts["cls"] == 0
    assert parts["obj"] > 0
    assert gradients(loss, maps).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_are_computed_in_float32(dtype: torch.dtype) -> None:
    maps = [(raw.detach() * 8).to(dtype).requires_grad_() for raw in random_maps(3)]
    exact = [raw.detach().float().requires_grad_() for raw in maps]
    targets, mask = random_targets(3, (5, 2))
    criterion = AnchorLoss(ANCHORS, STRIDES, 3)
    expected, _ = criterion(exact, *join(targets, mask))
    with torch.autocast("cpu", dtype=dtype):
        loss, _ = criterion(maps, *join(targets, mask))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert gradients(loss, maps).isfinite().all()


def test_extreme_logits_are_finite() -> None:
    """Sides of zero in float32 beside padding that gathers them."""
    maps = [torch.full_like(raw, -300.0).requires_grad_() for raw in random_maps(3)]
    targets, mask = random_targets(3, (3, 0))
    loss, _ = AnchorLoss(ANCHORS, STRIDES, 3)(maps, *join(targets, mask))
    assert loss.isfinite()
    assert gradients(loss, maps).isfinite().all()


def test_class_weights_are_on_the_device_of_the_loss() -> None:
    criterion = AnchorLoss(ANCHORS, STRIDES, 3)
    criterion.weigh_classes([100, 25, 0], 0.5, "meta")
    assert criterion.class_weights is not None and criterion.class_weights.is_meta


def test_classes_are_weighted_by_their_frequency() -> None:
    criterion = AnchorLoss(ANCHORS, STRIDES, 3)
    criterion.weigh_classes([100, 25, 0], 0.5, "cpu")
    weights = [0.1 / 0.15, 0.2 / 0.15, 1.0]  # the class without labels has the mean of the others
    assert criterion.class_weights is not None
    torch.testing.assert_close(criterion.class_weights, torch.tensor(weights))
    maps, (targets, mask) = random_maps(3), random_targets(3, (5, 9))
    loss, _ = criterion(maps, *join(targets, mask))
    expected = reference_loss(maps, targets, mask, AnchorLossConfig(), weights)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    evaluated, _ = criterion.eval()(maps, *join(targets, mask))
    torch.testing.assert_close(evaluated, AnchorLoss(ANCHORS, STRIDES, 3)(maps, *join(targets, mask))[0])


def simulate_ranks(criterion: Any, halves: list[tuple[list[Tensor], Tensor, Tensor]]) -> list[Tensor]:
    """Each rank's loss when ``rank_mean`` is the mean of what all of them hand in."""
    handed_in: list[Tensor] = []

    def record(value: Tensor) -> Tensor:
        handed_in.append(value)
        return value

    criterion.rank_mean = record
    for half in halves:
        criterion(half[0], *join(*half[1:]))
    mean = torch.stack(handed_in).mean(dim=0)
    criterion.rank_mean = lambda value: mean
    return [criterion(half[0], *join(*half[1:]))[0] for half in halves]


@pytest.mark.parametrize("counts", [(9, 3), (6, 0), (0, 0), (1, 0)])
def test_mean_of_rank_gradients_is_that_of_the_joined_batch(counts: tuple[int, int]) -> None:
    criterion = AnchorLoss(ANCHORS, STRIDES, 3)
    maps = random_maps(3)
    targets, mask = random_targets(3, counts)
    joined, _ = criterion(maps, *join(targets, mask))
    expected = torch.autograd.grad(joined, maps)
    halves = [([raw[i : i + 1] for raw in maps], targets[i : i + 1], mask[i : i + 1]) for i in range(2)]
    losses = simulate_ranks(criterion, halves)
    torch.testing.assert_close(torch.stack(losses).mean(), joined, rtol=1e-6, atol=1e-7)
    actual = torch.autograd.grad(torch.stack(losses).mean(), maps)
    for gradient, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-6, atol=1e-8)


def test_one_match_on_one_of_two_ranks() -> None:
    """The mean number of matches is a half, and has to divide as such."""
    criterion = AnchorLoss(ANCHORS, STRIDES, 3)
    maps = random_maps(3)
    # 4 px at the corner: one anchor of one level is near enough in size, and there is no neighbour.
    targets = torch.tensor([[[2.0, 0, 0, 4, 4]], [[0, 0, 0, 0, 0]]])
    mask = torch.tensor([[True], [False]])
    joined, _ = criterion(maps, *join(targets, mask))
    halves = [([raw[i : i + 1] for raw in maps], targets[i : i + 1], mask[i : i + 1]) for i in range(2)]
    mean = torch.stack(simulate_ranks(criterion, halves)).mean()
    torch.testing.assert_close(mean, joined, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradients(mean, maps), gradients(joined, maps), rtol=1e-6, atol=1e-8)


def test_rank_mean_rests_in_evaluation() -> None:
    criterion = AnchorLoss(ANCHORS, STRIDES, 3).eval()

    def fail(value: Tensor) -> Tensor:
        raise AssertionError("ranks may hold unequal numbers of validation batches")

    criterion.rank_mean = fail
    loss, _ = criterion(random_maps(3), *join(*random_targets(3, (2, 1))))
    assert loss.isfinite()


def compiled_graphs(criterion: torch.nn.Module, batches: list[tuple[list[Tensor], Tensor, Tensor]]) -> int:
    """Compile, run forward and backward on all batches, and count the graphs; equal to the eager results."""
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(criterion, backend="aot_eager", fullgraph=True, dynamic=False)
    for maps, targets, mask in batches:
        loss, _ = compiled(maps, *join(targets, mask))
        expected, _ = criterion(maps, *join(targets, mask))
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradients(loss, maps), gradients(expected, maps))
    assert not counters["graph_break"]
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("may_list", ["lists"], indirect=True)  # compiled code lists nothing in either way
def test_compiles_once_for_any_number_of_labels() -> None:
    batches = [
        (random_maps(3, seed=sum(counts)), *random_targets(3, counts))
        for counts in ((0, 0), (3, 12), (1, 0), (12, 12))
    ]
    assert compiled_graphs(AnchorLoss(ANCHORS, STRIDES, 3), batches) == 1


def test_gains_by_hand() -> None:
    # yolov5n6: four levels, 20 classes, 1280 px.
    gains = AnchorLoss(torch.ones(4, 3, 2), (8, 16, 32, 64), 20).gains(1280)
    assert gains == pytest.approx((0.05 * 0.75, 4 * 0.75, 0.5 * 0.25 * 0.75))
    assert AnchorLoss(ANCHORS, STRIDES, 20).gains(64) == pytest.approx((0.05, 0.01, 0.125))


def test_nothing_is_saved_in_a_checkpoint() -> None:
    assert AnchorLoss(ANCHORS, STRIDES, 3).state_dict() == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"box_gain": -0.1},
        {"focal_gamma": -1.0},
        {"class_positive_weight": 0.0},
        {"anchor_threshold": 1.0},
        {"label_smoothing": 1.0},
        {"objectness_gain": math.nan},
    ],
)
def test_wrong_options_are_refused_by_name(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(InputError, match=rf"loss\.{name} is .*: give a number"):
        AnchorLossConfig(**wrong)


def test_more_than_five_levels_are_refused() -> None:
    with pytest.raises(InputError, match="1 to 5 levels, not 6"):
        AnchorLoss(ANCHORS.repeat(2, 1, 1), (8, 16, 32, 64, 128, 256), 3)


def test_gains_of_a_rectangle_are_those_of_its_image_size() -> None:
    criterion = AnchorLoss(ANCHORS, STRIDES, 3)
    criterion.image_size_px = 64
    square = criterion.gains(64)
    maps = [torch.zeros(1, 3, 32 // s, 64 // s, 8) for s in STRIDES]
    targets, mask = torch.zeros(16, 6), torch.zeros(16, dtype=torch.bool)
    _, parts = criterion(maps, targets, mask)
    # Without a label every cell has the cross-entropy ln 2 of an objectness of 0.5 that should be 0.
    assert parts["obj"].item() == pytest.approx((4.0 + 1.0 + 0.4) * math.log(2) * square.objectness, rel=1e-5)
