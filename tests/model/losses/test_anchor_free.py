from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.label_tables import join
from yolo_lightning.errors import InputError
from yolo_lightning.model.losses import (
    AnchorFreeLoss,
    AnchorFreeLossConfig,
    anchor_free,
)
from yolo_lightning.model.losses import (
    assign_task_aligned as task_aligned,
)

from .test_anchor import compiled_graphs, gradients, simulate_ranks

os.environ.setdefault("YOLO_OFFLINE", "true")
from ultralytics.utils.loss import v8DetectionLoss


@pytest.fixture(params=["lists", "fixed shapes"], autouse=True)
def may_list(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of going through labels and points: eager CPU code's, and that of all others."""
    if request.param == "fixed shapes":
        monkeypatch.setattr(task_aligned, "may_list", lambda tensor: False)


SIZE = 64
STRIDES = (8, 16, 32)


def random_maps(
    classes: int, batch: int = 4, scale: float = 1.0, seed: int = 0, bins: int = 16
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for stride in STRIDES:
        raw = (
            torch.randn(batch, 4 * bins + classes, SIZE // stride, SIZE // stride, generator=generator)
            * scale
        )
        raw[:, 4 * bins :] -= 3  # few false positives, so that the class loss does not drown the others
        maps.append(raw.requires_grad_())
    return maps


def random_targets(
    classes: int, counts: tuple[int, ...], capacity: int = 16, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Labels of 3 to 60 px; junk as padding."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(counts), capacity)
    centre = torch.rand(*shape, 2, generator=generator) * SIZE
    sides = torch.exp(torch.rand(*shape, 2, generator=generator) * 3 + 1)
    boxes = torch.cat(((centre - sides / 2).clamp(0), (centre + sides / 2).clamp(max=SIZE)), dim=-1)
    label = torch.randint(0, classes, (*shape, 1), generator=generator).float()
    mask = torch.arange(capacity) < torch.tensor(counts)[:, None]
    return torch.where(mask[..., None], torch.cat((label, boxes), dim=-1), torch.nan), mask


def ultralytics_loss(
    maps: list[Tensor],
    targets: Tensor,
    mask: Tensor,
    config: AnchorFreeLossConfig,
    bins: int = 16,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, list[float]]:
    """Loss over batch size, and its parts, of ultralytics' own code for the same maps and labels."""
    head = SimpleNamespace(stride=torch.tensor(STRIDES).float(), nc=maps[0].shape[1] - 4 * bins, reg_max=bins)
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(1))
    model.model = [head]  # type: ignore[assignment]
    model.args = SimpleNamespace(box=config.box_gain, cls=config.class_gain, dfl=config.dfl_gain)  # type: ignore[assignment]
    if class_weights is not None:
        model.class_weights = class_weights
    criterion = v8DetectionLoss(model, tal_topk=config.top_k)
    image = torch.arange(len(mask))[:, None].expand_as(mask)[mask]
    label, low, high = targets[mask].split((1, 2, 2), dim=1)
    boxes = torch.cat(((low + high) / 2, high - low), dim=1) / SIZE
    raw = torch.cat([level.flatten(2) for level in maps], dim=2)
    predictions: dict[str, Any] = {"boxes": raw[:, : 4 * bins], "scores": raw[:, 4 * bins :], "feats": maps}
    loss, parts = criterion.loss(
        predictions,
        {"batch_idx": image.float(), "cls": label, "bboxes": boxes},
    )
    return loss.sum() / len(mask), [float(part) for part in parts.values()]


def test_weighted_classes_equal_ultralytics() -> None:
    maps, (targets, mask) = random_maps(3), random_targets(3, (3, 0, 16, 1))
    criterion = AnchorFreeLoss(STRIDES, 3)
    criterion.weigh_classes([90, 10, 40], 1.0, "cpu")
    expected, _ = ultralytics_loss(
        maps, targets, mask, AnchorFreeLossConfig(), class_weights=criterion.class_weights
    )
    loss, _ = criterion(maps, *join(targets, mask))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(loss, maps), gradients(expected, maps), rtol=1e-4, atol=1e-5)
    plain, _ = AnchorFreeLoss(STRIDES, 3)(maps, *join(targets, mask))
    assert (plain - loss).abs() > 0.01
    torch.testing.assert_close(criterion.eval()(maps, *join(targets, mask))[0], plain)


@pytest.mark.parametrize(
    ("classes", "counts", "scale", "config"),
    [
        (80, (3, 0, 16, 1), 1.0, AnchorFreeLossConfig()),
        (3, (16, 16, 16, 16), 3.0, AnchorFreeLossConfig()),
        (1, (0, 2, 0, 9), 0.1, AnchorFreeLossConfig()),
        (3, (5, 0, 0, 0), 1.0, AnchorFreeLossConfig(box_gain=1.0, class_gain=2.0, dfl_gain=3.0, top_k=4)),
        (3, (0, 0, 0, 0), 1.0, AnchorFreeLossConfig()),
    ],
    ids=["80 classes", "crowded", "one class", "other options", "no label"],
)
def test_equals_ultralytics(
    classes: int, counts: tuple[int, ...], scale: float, config: AnchorFreeLossConfig
) -> None:
    maps = random_maps(classes, scale=scale)
    targets, mask = random_targets(classes, counts)
    expected, expected_parts = ultralytics_loss(maps, targets, mask, config)
    loss, parts = AnchorFreeLoss(STRIDES, classes, config)(maps, *join(targets, mask))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert [parts[name].item() for name in ("box", "cls", "dfl")] == pytest.approx(expected_parts, rel=1e-5)
    torch.testing.assert_close(gradients(loss, maps), gradients(expected, maps), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.stack(list(parts.values())).sum(), loss.detach())
    assert not any(part.requires_grad for part in parts.values())
    assert bool(parts["box"] > 0) == (sum(counts) > 0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("seed", range(4))
def test_random_batches_equal_ultralytics(seed: int, layout: torch.memory_format) -> None:
    """More candidates than points when the rows are full, and fewer."""
    classes = 1 + 4 * (seed % 2)
    counts = tuple(torch.randint(0, 17, (4,), generator=torch.Generator().manual_seed(seed)).tolist())
    maps = [
        raw.detach().contiguous(memory_format=layout).requires_grad_()
        for raw in random_maps(classes, scale=2.0, seed=seed)
    ]
    targets, mask = random_targets(classes, counts, capacity=16 if seed < 2 else 2 + max(counts), seed=seed)
    expected, _ = ultralytics_loss(maps, targets, mask, AnchorFreeLossConfig(top_k=3 + seed))
    loss, _ = AnchorFreeLoss(STRIDES, classes, AnchorFreeLossConfig(top_k=3 + seed))(
        maps, *join(targets, mask)
    )
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(loss, maps), gradients(expected, maps), rtol=1e-4, atol=1e-5)


def test_labels_beyond_the_last_bin() -> None:
    """Four bins reach 3 strides, so that most sides of large labels are out of reach."""
    maps = random_maps(3, bins=4)
    targets, mask = random_targets(3, (8, 16, 0, 3))
    expected, _ = ultralytics_loss(maps, targets, mask, AnchorFreeLossConfig(), bins=4)
    loss, _ = AnchorFreeLoss(STRIDES, 3, reg_max=4)(maps, *join(targets, mask))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients(loss, maps), gradients(expected, maps), rtol=1e-4, atol=1e-5)


def test_one_label_by_hand() -> None:
    """2 x 2 cells of stride 8, a label on the whole image, all distances 1 stride, class logits 0."""
    raw = torch.zeros(1, 65, 2, 2)
    raw[:, 1:64:16] = 20  # bin 1 of each side has probability 1 and the others e^-20
    raw.requires_grad_()
    targets = torch.tensor([[[0.0, 0, 0, 16, 16]]])
    loss, parts = AnchorFreeLoss([8], 1)([raw], *join(targets, torch.ones(1, 1, dtype=torch.bool)))
    # In strides: each point predicts 2 x 2 around itself, half a stride off the label's centre along
    # each axis. IoU 1.5^2 / (4 + 4 - 1.5^2) = 0.391304, d^2 / c^2 = 0.5 / 12.5, both square: CIoU
    # 0.351304. All four ratings are equal, so all four points score the label's best CIoU.
    score = 0.351304
    assert parts["box"].item() == pytest.approx(7.5 * (1 - score), rel=1e-5)
    # ln 2 for each of the four logits, whatever the target; the sum of the scores is above 1.
    assert parts["cls"].item() == pytest.approx(0.5 * 4 * 0.6931472 / (4 * score), rel=1e-5)
    # Distances 0.5 and 1.5 lie in the middle of bin 1, at a cost of 0, and another, at a cost of 20.
    assert parts["dfl"].item() == pytest.approx(1.5 * 10, rel=1e-5)
    assert loss.item() == pytest.approx(sum(part.item() for part in parts.values()))
    (gradient,) = torch.autograd.grad(loss, raw)
    torch.testing.assert_close(gradient[0, 64], torch.full((2, 2), 0.5 * (0.5 - score) / (4 * score)))


def test_capacity_and_order_do_not_matter() -> None:
    maps = random_maps(3)
    targets, mask = random_targets(3, (5, 2, 0, 4))
    criterion = AnchorFreeLoss(STRIDES, 3)
    loss, _ = criterion(maps, *join(targets, mask))
    tight, _ = criterion(maps, *join(targets[:, :5].flip(1), mask[:, :5].flip(1)))
    torch.testing.assert_close(tight, loss)
    torch.testing.assert_close(gradients(tight, maps), gradients(loss, maps))


def test_batch_without_labels_is_finite_and_connected() -> None:
    maps = random_maps(3)
    loss, parts = AnchorFreeLoss(STRIDES, 3)(maps, *join(*random_targets(3, (0, 0, 0, 0))))
    assert parts["box"] == 0
    assert parts["dfl"] == 0
    assert parts["cls"] > 0
    assert gradients(loss, maps).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_are_computed_in_float32(dtype: torch.dtype) -> None:
    maps = [raw.detach().to(dtype).requires_grad_() for raw in random_maps(3)]
    exact = [raw.detach().float().requires_grad_() for raw in maps]
    targets, mask = random_targets(3, (5, 2, 0, 4))
    criterion = AnchorFreeLoss(STRIDES, 3)
    expected, _ = criterion(exact, *join(targets, mask))
    with torch.autocast("cpu", dtype=dtype):
        loss, _ = criterion(maps, *join(targets, mask))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    # The gradient is rounded once, where it leaves float32.
    assert torch.equal(gradients(loss, maps), gradients(expected, exact).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_read_has_the_gradient_of_two_indexings(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(2, 5, 7, generator=generator).to(dtype).requires_grad_()
    learning = torch.tensor([8, 0, 3])
    weight_rows = torch.randn(3, 7, generator=generator)
    weight_logits = torch.randn(2, 5, 2, generator=generator)
    exact = raw.float()
    expected = (exact.flatten(0, 1)[learning] * weight_rows).sum() + (exact[..., 5:] * weight_logits).sum()
    rows, logits = anchor_free._Read.apply(raw, learning, 2)
    value = (rows * weight_rows).sum() + (logits * weight_logits).sum()
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value, raw)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, raw)[0])


def test_extreme_logits_are_finite() -> None:
    """Distributions that are certain of distance 0, so that predicted boxes have no area."""
    maps = []
    for raw in random_maps(3):
        raw = raw.detach() - 300
        raw[:, 0:64:16] = 300
        maps.append(raw.requires_grad_())
    loss, _ = AnchorFreeLoss(STRIDES, 3)(maps, *join(*random_targets(3, (5, 2, 0, 4))))
    assert loss.isfinite()
    assert gradients(loss, maps).isfinite().all()


@pytest.mark.parametrize("counts", [(9, 3), (6, 0), (0, 0), (1, 0)])
@pytest.mark.parametrize("scale", [1.0, 0.01], ids=["sum above 1", "sum below 1"])
def test_mean_of_rank_gradients_is_that_of_the_joined_batch(counts: tuple[int, int], scale: float) -> None:
    criterion = AnchorFreeLoss(STRIDES, 3)
    maps = random_maps(3, batch=2, scale=scale)
    targets, mask = random_targets(3, counts)
    joined, _ = criterion(maps, *join(targets, mask))
    expected = gradients(joined, maps)
    criterion.ranks = 2
    halves = [([raw[i : i + 1] for raw in maps], targets[i : i + 1], mask[i : i + 1]) for i in range(2)]
    mean = torch.stack(simulate_ranks(criterion, halves)).mean()
    torch.testing.assert_close(mean, joined, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients(mean, maps), expected, rtol=1e-5, atol=1e-6)


def test_rank_mean_rests_in_evaluation() -> None:
    criterion = AnchorFreeLoss(STRIDES, 3).eval()
    batch = (random_maps(3), *join(*random_targets(3, (0, 1, 0, 0))))
    expected, _ = criterion(*batch)

    def fail(value: Tensor) -> Tensor:
        raise AssertionError("ranks may hold unequal numbers of validation batches")

    criterion.rank_mean, criterion.ranks = fail, 2
    assert criterion(*batch)[0] == expected


@pytest.mark.parametrize("may_list", ["lists"], indirect=True)  # compiled code lists nothing in either way
def test_compiles_once_for_any_number_of_labels() -> None:
    batches = [
        (random_maps(3, batch=2, seed=sum(counts)), *random_targets(3, counts))
        for counts in ((0, 0), (3, 16), (1, 0), (16, 16))
    ]
    assert compiled_graphs(AnchorFreeLoss(STRIDES, 3), batches) == 1


@pytest.mark.parametrize("wrong", [{"box_gain": -1.0}, {"top_k": 0}, {"beta": -6.0}])
def test_wrong_options_are_refused_by_name(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(InputError, match=rf"anchor_free_loss\.{name} is .*: give a number"):
        AnchorFreeLossConfig(**wrong)  # type: ignore[arg-type]
