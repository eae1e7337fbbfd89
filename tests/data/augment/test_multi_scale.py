from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from tests.support.augment_reference import make_batch
from yolo_lightning.data.augment import Augmentation, AugmentationConfig
from yolo_lightning.data.augment.multi_scale import draw_size, resize, training_sizes
from yolo_lightning.data.batch import pack_labels
from yolo_lightning.data.image_size import Size, as_size


@pytest.mark.parametrize(
    ("size", "extent", "stride", "expected"),
    [
        (640, 0.5, 32, [320, 480, 640, 800, 960]),
        (640, 0.1, 32, [576, 608, 640, 672, 704]),
        (1280, 0.5, 64, [640, 960, 1280, 1600, 1920]),
        (64, 0.5, 32, [32, 64, 96]),
        (32, 0.9, 32, [32, 64]),
        (640, 0.0, 32, [640]),
        ((384, 640), 0.5, 32, [(192, 320), (288, 480), (384, 640), (480, 800), (576, 960)]),
        ((32, 640), 0.1, 32, [(32, 576), (32, 608), (32, 640), (32, 672), (32, 704)]),
    ],
)
def test_sizes_are_multiples_of_the_stride(
    size: int | Size, extent: float, stride: int, expected: list[int | Size]
) -> None:
    assert training_sizes(as_size(size), extent, stride) == [as_size(one) for one in expected]


def test_each_size_comes_once_in_a_round_and_in_another_order_each_time() -> None:
    sizes = [(side, side) for side in (320, 480, 640, 800, 960)]
    rounds = [
        tuple(draw_size(sizes, seed, epoch, 5 * n + k) for k in range(5))
        for seed, epoch, n in [(s, e, n) for s in range(3) for e in range(3) for n in range(3)]
    ]
    assert all(sorted(one) == sizes for one in rounds)
    assert len(set(rounds)) > 15  # of 27, out of 120 orders


def test_pixels_and_boxes_are_those_of_a_resized_picture() -> None:
    batch = make_batch(2, 64)
    images, (targets, _) = batch.images.float() / 255, pack_labels(batch.targets, batch.count, 16)
    larger, boxes = resize(images, targets, (96, 160))
    assert larger.is_contiguous(memory_format=torch.channels_last)
    expected = cv2.resize(images[1].permute(1, 2, 0).numpy(), (160, 96), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(larger[1].permute(1, 2, 0).numpy(), expected, atol=1e-3)
    assert torch.equal(boxes[:, :2], targets[:, :2])
    torch.testing.assert_close(boxes[:, 2:], targets[:, 2:] * torch.tensor([2.5, 1.5, 2.5, 1.5]))


def test_the_augmentation_gives_the_size_that_is_asked_for() -> None:
    batch = make_batch(3, 64)
    plain = Augmentation(AugmentationConfig())(batch, 0)
    images, targets, mask = Augmentation(AugmentationConfig())(batch, 0, size=(32, 32))
    assert images.shape == (3, 3, 32, 32) and torch.equal(mask, plain[2])
    torch.testing.assert_close(targets[mask][:, 2:] * 2, plain[1][mask][:, 2:])
