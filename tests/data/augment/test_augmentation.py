"""``Augmentation`` as the training step sees it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from tests.support import augment_reference as reference
from tests.support.augment_reference import make_batch
from tests.support.label_tables import split
from yolo_lightning.data.augment import Augmentation, AugmentationConfig, normalise
from yolo_lightning.data.batch import Batch, move
from yolo_lightning.errors import InputError

SINGLE = AugmentationConfig(mosaic=0.0)


def take(batch: Batch, rows: list[int]) -> Batch:
    return batch.map(lambda entry: entry[rows])


def equal(first: tuple[torch.Tensor, ...], second: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("mixup", "rows"), [(0.0, 192), (0.5, 384)])
def test_shapes_types_and_ranges(mixup: float, rows: int) -> None:
    batch = make_batch(6, 64)
    augmentation = Augmentation(AugmentationConfig(mixup=mixup))
    augmentation.labels_per_image = 7.0  # room for 252 labels is over a quarter of that for all
    for mosaic in (True, False):
        images, targets, mask = augmentation(batch, 0, mosaic)
        assert images.shape == (6, 3, 64, 64) and images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert images.min() >= 0 and images.max() <= 1
        assert targets.shape == (rows, 6) and targets.dtype == torch.float32
        assert mask.shape == (rows,) and mask.dtype == torch.bool
        boxes = targets[mask][:, 2:]
        assert len(boxes) > 0
        assert boxes.min() >= 0 and boxes.max() <= 64
        assert (boxes[:, 2:] - boxes[:, :2] > 2).all()
        assert targets[mask][:, 0].diff().min() >= 0  # in the order of the images
        assert not targets[~mask].any()


def test_repeats_itself_and_ignores_the_global_generator() -> None:
    batch, config = make_batch(6, 64), AugmentationConfig(mixup=0.5, degrees=10)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = Augmentation(config, seed=5)(batch, 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert equal(first, Augmentation(config, seed=5)(batch, 2))
    assert not torch.equal(first[0], Augmentation(config, seed=6)(batch, 2)[0])
    assert not torch.equal(first[0], Augmentation(config, seed=5)(batch, 3)[0])


def test_a_single_image_does_not_depend_on_its_place_or_its_company() -> None:
    batch = make_batch(6, 64)
    images, *labels = Augmentation(SINGLE)(batch, 1)
    rows = [4, 1, 5]
    own, *own_labels = Augmentation(SINGLE)(take(batch, rows), 1)
    assert torch.equal(own, images[rows])
    expected = split(*labels, 6)
    assert equal(tuple(split(*own_labels, 3)), tuple(expected[row] for row in rows))


def test_without_mosaic_equals_a_mosaic_probability_of_zero() -> None:
    batch = make_batch(6, 64)
    assert equal(
        Augmentation(AugmentationConfig(mixup=1.0))(batch, 0, False)[:1], Augmentation(SINGLE)(batch, 0)[:1]
    )


def test_a_resumed_epoch_equals_an_uninterrupted_one() -> None:
    batches = [make_batch(4, 64, seed=seed, first_index=4 * seed) for seed in range(3)]
    straight, resumed = Augmentation(AugmentationConfig()), Augmentation(AugmentationConfig())
    for batch in batches:
        straight(batch, 0)
    for batch in reversed(batches):
        assert equal(straight(batch, 1), resumed(batch, 1))


def solid(colour: int, index: int) -> Batch:
    """Four square images of one colour, each covered by a box of that class."""
    batch = make_batch(4, 64, first_index=index)
    targets = torch.zeros_like(batch.targets)
    targets[:, 0] = torch.tensor([colour, 0.0, 0.0, 64.0, 64.0])
    return batch._replace(
        images=torch.full_like(batch.images, colour),
        targets=targets,
        count=torch.ones(4, dtype=torch.int64),
        original_sizes=torch.full((4, 2), 64),
        letterbox=torch.tensor([[1.0, 1.0, 0.0, 0.0]]).repeat(4, 1),
    )


def test_partners_are_drawn_from_the_recent_batches_with_their_labels() -> None:
    config = AugmentationConfig(hsv_h=0, hsv_s=0, hsv_v=0, scale=0, translate=0.4)
    augmentation, seen = Augmentation(config, recent_batches=2, recent_images=0), []
    for colour in range(10, 60, 10):
        images, targets, mask = augmentation(solid(colour, colour), 0)
        classes = set(targets[mask, 1].int().tolist())
        shown = set((images * 255).round().int().unique().tolist())
        assert classes <= shown  # a class is a colour, and what is labelled is seen
        assert colour in classes
        seen.append(classes - {colour})
    assert seen[0] == set()  # the ring began with this batch alone
    assert seen[1:] == [{10}, {20}, {30}, {40}]  # one batch back, never two
    images, targets, mask = augmentation(solid(90, 0), 1)
    assert set(targets[mask, 1].tolist()) == {90.0}  # a new epoch starts without partners


def test_a_batch_without_labels() -> None:
    batch = make_batch(4, 64, labels=False)
    for config in (AugmentationConfig(mixup=1.0, perspective=0.001), SINGLE):
        images, targets, mask = Augmentation(config)(batch, 0)
        assert not mask.any() and not targets.any()
        assert images.isfinite().all() and images.std() > 0.01


def test_every_label_has_room() -> None:
    batch = solid(50, 0)
    boxes = torch.tensor([8.0, 8.0, 56.0, 56.0])
    batch.targets[:, :, 1:] = boxes
    batch = batch._replace(count=torch.full((4,), batch.targets.shape[1]))
    config = AugmentationConfig(scale=0, translate=0, mixup=1.0)
    _, targets, mask = Augmentation(config)(batch, 0)
    single = Augmentation(AugmentationConfig(scale=0, translate=0, mosaic=0.0))(batch, 0)[1:]
    assert [len(labels) for labels in split(*single, 4)] == [8] * 4
    # The eight equal boxes of a tile live and die together.
    assert all(len(labels) % 8 == 0 for labels in split(targets, mask, 4))
    assert mask.sum() > 4 * 32


def test_flips_mirror_pixels_and_boxes() -> None:
    batch = make_batch(4, 64)
    still: dict[str, Any] = {"mosaic": 0, "scale": 0, "translate": 0, "hsv_h": 0, "hsv_s": 0, "hsv_v": 0}
    images, targets, mask = Augmentation(AugmentationConfig(**still, flip_left_right=0))(batch, 0)
    assert torch.equal((images * 255).round().to(torch.uint8), batch.images)
    flipped = Augmentation(AugmentationConfig(**still, flip_left_right=1, flip_up_down=1))(batch, 0)
    assert torch.equal(flipped[0], images.flip(2, 3))
    expected = (64 - targets[:, [4, 5, 2, 3]]) * mask[:, None]
    torch.testing.assert_close(flipped[1][:, 2:], expected)
    assert mask.sum() > 5


def test_boxes_are_distributed_as_a_plain_simulation_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, places and sizes of boxes over many mosaics, with parameters drawn by NumPy."""
    config, size, rng = AugmentationConfig(), 64, np.random.default_rng(0)
    unused = torch.empty(32, size, size, 3)
    monkeypatch.setattr("yolo_lightning.data.augment.augmentation.render_on_cpu", lambda *_: unused)
    batch = make_batch(32, size, capacity=4)
    augmentation, found, counts = Augmentation(config), [], []
    for epoch in range(30):
        _, targets, mask = augmentation(batch, epoch)
        found.append(targets[mask][:, 2:].numpy())
        counts += [len(labels) for labels in split(targets, mask, 32)]
    expected, expected_counts = [], []
    for own in range(32):
        for _ in range(30):
            chosen = rng.permutation([own, *rng.integers(0, 32, 3)]).tolist()
            x, y = rng.uniform(size / 2, 3 * size / 2, 2).astype(int)
            _, labels = reference.mosaic_canvas(batch, chosen, int(x), int(y))
            zoom, move = rng.uniform(0.5, 1.5), rng.uniform(0.4, 0.6, 2) * size
            matrix = np.array([[zoom, 0, move[0] - zoom * size], [0, zoom, move[1] - zoom * size], [0, 0, 1]])
            boxes = reference.warp_labels(labels, matrix, zoom, (size, size))[:, 1:]
            if rng.random() < 0.5:
                boxes[:, [0, 2]] = size - boxes[:, [2, 0]]
            expected.append(boxes)
            expected_counts.append(len(boxes))
    assert abs(np.mean(counts) - np.mean(expected_counts)) < 4 * np.std(counts) * np.sqrt(2 / len(counts))
    for column in range(4):
        mine = np.sort(np.concatenate(found)[:, column])
        theirs = np.sort(np.concatenate(expected)[:, column])
        grid = np.linspace(0.5, size - 0.5, 200)
        gap = np.searchsorted(mine, grid) / len(mine) - np.searchsorted(theirs, grid) / len(theirs)
        assert np.abs(gap).max() < 0.04
    area = [
        np.prod(np.concatenate(b)[:, 2:] - np.concatenate(b)[:, :2], axis=1).mean() for b in (found, expected)
    ]
    assert area[0] == pytest.approx(area[1], rel=0.08)


def test_one_graph_and_no_recompile() -> None:
    torch._dynamo.reset()
    counters.clear()
    config = AugmentationConfig(mosaic=0.8, degrees=10.0, perspective=0.0005, mixup=0.5)
    eager = Augmentation(config, recent_batches=2, recent_images=0)
    compiled = copy.deepcopy(eager)
    compiled.compile_core(backend="aot_eager")
    for step in range(6):
        batch = make_batch(4, 64, seed=step, first_index=step, labels=step != 2)
        found = compiled(batch, step // 3, mosaic=step != 4)
        expected = eager(batch, step // 3, mosaic=step != 4)
        assert (found[0] - expected[0]).abs().mean() < 0.8 / 255  # OpenCV rounds coordinates
        assert found[0].stride() == expected[0].stride()
        torch.testing.assert_close(found[1:], expected[1:], atol=1e-3, rtol=0)
    assert counters["stats"]["unique_graphs"] == 2  # the plan with the labels, and the pixels
    assert not counters["graph_break"]


@pytest.mark.slow
def test_compiled_equals_eager() -> None:
    torch._dynamo.reset()
    eager = Augmentation(AugmentationConfig())  # the defaults alone: generating code takes long
    compiled = copy.deepcopy(eager)
    compiled.compile_core()
    for epoch in range(3):
        batch = make_batch(4, 64, seed=epoch)
        found, expected = compiled(batch, epoch), eager(batch, epoch)
        assert (found[0] - expected[0]).abs().mean() < 0.8 / 255  # OpenCV rounds coordinates
        assert found[0].stride() == expected[0].stride()
        torch.testing.assert_close(found[1:], expected[1:], atol=1e-3, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_never_waits_for_the_device() -> None:
    config = AugmentationConfig(mixup=0.5, cutmix=0.5, bgr=0.5, degrees=10.0)
    batch = make_batch(6, 64)
    on_device = move(batch, torch.device("cuda"))
    augmentation = Augmentation(config).cuda()
    augmentation(on_device, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = augmentation(on_device, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = Augmentation(config)(batch, 1)
    assert (found[0].cpu() - expected[0]).abs().mean() < 0.1 / 255
    torch.testing.assert_close(found[1].cpu(), expected[1], atol=1e-3, rtol=0)


def test_nothing_needs_a_gradient_and_nothing_is_saved() -> None:
    augmentation = Augmentation(AugmentationConfig())
    images, targets, _ = augmentation(make_batch(2, 32), 0)
    assert not images.requires_grad and not targets.requires_grad
    assert not augmentation.state_dict()
    assert not list(augmentation.parameters())
    assert sum(buffer.numel() for buffer in augmentation.buffers()) == 1  # the seed, and no image


def test_autocast_changes_nothing() -> None:
    batch = make_batch(3, 64)
    expected = Augmentation(AugmentationConfig(degrees=10))(batch, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert equal(Augmentation(AugmentationConfig(degrees=10))(batch, 0), expected)


def test_a_seed_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match="seed is -1"):
        Augmentation(AugmentationConfig(), seed=-1)


def test_normalise_keeps_values_and_memory_format() -> None:
    batch = make_batch(2, 32)
    images = normalise(batch.images)
    assert images.dtype == torch.float32 and images.stride() == batch.images.stride()
    assert torch.equal((images * 255).round().to(torch.uint8), batch.images)
    assert images.max() <= 1
