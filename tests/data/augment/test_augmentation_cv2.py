"""The whole augmentation against cv2 with the same parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support import augment_reference as reference
from tests.support.label_tables import split
from yolo_lightning.data.augment import Augmentation, AugmentationConfig
from yolo_lightning.data.augment.augmentation import render_on_device
from yolo_lightning.data.augment.randomness import SampleStream, uniforms
from yolo_lightning.data.image_size import Size

PLAIN = {"hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}
TURNED = {"degrees": 25.0, "shear": 8.0}
CASES: dict[str, tuple[dict[str, Any], float]] = {
    "classic": ({}, 0.8),
    "mosaic": ({**PLAIN}, 0.5),
    "mosaic turned": ({**PLAIN, **TURNED, "flip_up_down": 0.5}, 0.5),
    "mosaic perspective": ({**PLAIN, **TURNED, "perspective": 0.0008}, 0.5),
    "single": ({**PLAIN, "mosaic": 0.0}, 0.5),
    "single turned": ({**PLAIN, **TURNED, "mosaic": 0.0, "perspective": 0.0005, "flip_up_down": 0.5}, 0.5),
    "either": ({"mosaic": 0.5, **TURNED}, 0.8),
    "mixup": ({**PLAIN, **TURNED, "mixup": 0.5, "mosaic": 0.8}, 0.5),
    "mixup colour": ({"mixup": 1.0}, 0.8),
    "cutmix": ({**PLAIN, "cutmix": 1.0, "flip_up_down": 0.5}, 0.5),
    "cutmix or mixup": ({**PLAIN, "cutmix": 0.5, "mixup": 0.5}, 0.5),
    "bgr": ({"bgr": 0.5}, 0.8),
}


def render(*args: Any) -> Tensor:
    """Pixels as on a device, 0..255."""
    return render_on_device(*args) * 255


@pytest.mark.parametrize("device", ["cpu", "other"])
@pytest.mark.parametrize("size", [(96, 96), (64, 128), (128, 96)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_equals_cv2_with_the_same_parameters(
    case: str, size: Size, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "other":
        monkeypatch.setattr("yolo_lightning.data.augment.augmentation.render_on_cpu", render)
    options, tolerance = CASES[case]
    config = AugmentationConfig(**options)
    batch, seed, epoch = reference.make_batch(10, size), 7, 3
    images, targets, mask = Augmentation(config, seed=seed)(batch, epoch)
    assert images.shape == (10, 3, *size)
    numbers = uniforms(torch.tensor(seed), torch.tensor(epoch), batch.index, SampleStream.END)
    assert not targets[~mask].any()
    found = split(targets, mask, 10)
    differences = []  # of 255; OpenCV 4 rounds coordinates to 1/32 px, which costs most of the tolerance
    for i in range(10):
        picture, labels = reference.augment(batch, config, numbers[i].double().numpy(), own=i, filled=10)
        mine = (images[i] * 255).permute(1, 2, 0).numpy()
        differences.append(np.abs(mine - picture).mean())
        assert len(found[i]) == len(labels)
        np.testing.assert_allclose(found[i].numpy(), labels, atol=1e-3)
    assert mask.sum() > 20
    assert np.mean(differences) < tolerance
