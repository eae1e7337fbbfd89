"""Augmentation of rectangles, against the classic steps in NumPy and OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from tests.support import augment_reference as reference
from tests.support.augment_reference import make_batch
from tests.support.label_tables import split
from yolo_lightning.data.augment import Augmentation, AugmentationConfig
from yolo_lightning.data.augment.randomness import SampleStream, ViewStream, uniforms
from yolo_lightning.data.batch import on_canvas


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 32), (64, 64)])
def test_pixels_and_boxes_are_those_of_the_classic_steps(height: int, width: int) -> None:
    batch = on_canvas(make_batch(6, 64), height, width)
    config = AugmentationConfig(hsv_h=0, hsv_s=0, hsv_v=0, scale=0.4, translate=0.2)
    images, targets, mask = Augmentation(config, seed=3)(batch, 1, mosaic=False, rect=True)
    assert images.shape == (6, 3, height, width)
    assert images.is_contiguous(memory_format=torch.channels_last)
    found = split(targets, mask, 6)
    draws = uniforms(torch.tensor(3), torch.tensor(1), batch.index, SampleStream.END).numpy()
    for i, u in enumerate(draws):
        zoom = 1 + config.scale * (2 * u[ViewStream.SCALE] - 1)
        x, y = 0.5 + config.translate * (2 * u[ViewStream.TRANSLATE : ViewStream.TRANSLATE + 2] - 1)
        matrix = np.array(
            [[zoom, 0, x * width - zoom * width / 2], [0, zoom, y * height - zoom * height / 2]]
        )
        picture = batch.images[i].permute(1, 2, 0).numpy()
        expected = cv2.warpAffine(picture, matrix, (width, height), borderValue=(114, 114, 114))
        labels = batch.targets[i, : batch.count[i]].numpy().astype(np.float64)
        corners = labels[:, 1:].reshape(-1, 2) @ matrix[:, :2].T + matrix[:, 2]
        clipped = corners.reshape(-1, 4).clip(0, [width, height, width, height])
        kept = [
            reference.keep_candidate(old * zoom, new) for old, new in zip(labels[:, 1:], clipped, strict=True)
        ]
        labels, clipped = labels[kept], clipped[kept]
        if u[SampleStream.FLIP_LEFT_RIGHT] < 0.5:
            expected = expected[:, ::-1]
            clipped[:, [0, 2]] = width - clipped[:, [2, 0]]
        np.testing.assert_allclose(found[i][:, 1:].numpy(), clipped, atol=1e-3)
        assert found[i][:, 0].tolist() == labels[:, 0].tolist()
        off = np.abs(images[i].permute(1, 2, 0).numpy() * 255 - expected)
        assert off.mean() < 1.5
    assert mask.sum() > 10


def test_one_graph_serves_all_rectangles() -> None:
    torch._dynamo.reset()
    augmentation = Augmentation(AugmentationConfig())
    augmentation.core.compile(fullgraph=True, dynamic=False, backend="eager")
    batch = make_batch(2, 64)
    augmentation(batch, 0, mosaic=False, rect=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for shape in ((32, 64), (64, 32)):
            augmentation(on_canvas(batch, *shape), 0, mosaic=False, rect=True)
