from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.augment_reference import change_colour
from yolo_lightning.data.augment.colour import change_hsv


@pytest.mark.parametrize(
    "gains", [(1.0, 1.0, 1.0), (1.015, 1.7, 1.4), (0.985, 0.3, 0.6), (0.2, 1.0, 1.0), (1.9, 0.0, 1.2)]
)
def test_equals_opencv_with_look_up_tables(gains: tuple[float, float, float]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    pixels[:8] = pixels[:8, :, :1]  # greys, which have no hue
    pixels[8:10] = 0
    planes = list(torch.from_numpy(pixels).float()[None].unbind(-1))
    found = torch.stack(change_hsv(planes, torch.tensor([gains])), dim=-1)[0].numpy()
    difference = np.abs(found - change_colour(pixels, np.array(gains)))
    assert difference.mean() < 0.5  # of 255; what remains is OpenCV's fixed-point arithmetic
    assert (difference > 2).mean() < 0.02
    assert np.array_equal(found, found.round())
    assert found.min() >= 0 and found.max() <= 255


def test_each_image_has_its_own_gains() -> None:
    pixels = torch.full((2, 4, 4), 100.0)
    red, green, blue = change_hsv([pixels, pixels, pixels], torch.tensor([[1.0, 1.0, 0.5], [1.0, 1.0, 1.2]]))
    for plane in (red, green, blue):
        assert plane[0].unique().tolist() == [50.0]
        assert plane[1].unique().tolist() == [120.0]
