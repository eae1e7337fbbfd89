from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from tests.support.tiny_data import write_yolo
from yolo_lightning.data.images import effects
from yolo_lightning.data.images.effects import Effects
from yolo_lightning.data.module import DetectionDataModule

PICTURE = np.random.default_rng(0).integers(40, 120, (64, 64, 3), dtype=np.uint8)


def windows(side: int) -> Any:
    """The neighbourhood of each pixel, (62, 62, 3, side * side), without those at the edge."""
    return sliding_window_view(PICTURE, (side, side), axis=(0, 1)).reshape(65 - side, 65 - side, 3, -1)  # type: ignore[call-overload]


@pytest.mark.parametrize("seed", range(4))
def test_blurs_are_means_and_medians_of_small_squares(seed: int) -> None:
    side = int(np.random.default_rng(seed).choice((3, 5, 7)))
    inside = slice(side // 2, 64 - side // 2)
    mean = effects._blur(PICTURE, np.random.default_rng(seed))[inside, inside]
    assert np.abs(mean - windows(side).mean(axis=-1)).max() <= 0.51
    median = effects._median_blur(PICTURE, np.random.default_rng(seed))[inside, inside]
    assert np.array_equal(median, np.median(windows(side), axis=-1))


def test_grey_is_the_luma() -> None:
    grey = effects._grey(PICTURE, np.random.default_rng(0))
    assert np.abs(grey - (PICTURE @ [0.299, 0.587, 0.114])[..., None]).max() <= 0.51


def test_equalising_spreads_the_lightness_and_keeps_the_hue() -> None:
    ramp = np.repeat(np.linspace(100, 140, 64).astype(np.uint8)[None], 64, axis=0)
    flat = np.stack((ramp, ramp // 2, ramp // 2), axis=-1)
    found = effects._equalise(flat, np.random.default_rng(1)).astype(int)
    assert np.ptp(found[..., 0]) > 1.2 * np.ptp(flat[..., 0])
    assert (found[..., 0] > found[..., 1] + 20).all() and np.abs(found[..., 1] - found[..., 2]).max() < 8


def test_each_effect_has_its_share_and_depends_on_seed_epoch_and_index_alone() -> None:
    changed = []
    for index in range(4000):
        image = np.full((8, 8, 3), (200, 100, 50), np.uint8)
        Effects(0).apply(image, 1, index)
        changed.append(bool((image[..., 0] == image[..., 1]).all()))  # grey; the others leave one colour
    assert 0.005 < np.mean(changed) < 0.016
    one, two, other = PICTURE.copy(), PICTURE.copy(), PICTURE.copy()
    for image, epoch in ((one, 3), (two, 3), (other, 4)):
        Effects(5, probability=0.5).apply(image, epoch, 17)
    assert np.array_equal(one, two) and not np.array_equal(one, other)


@pytest.mark.parametrize(("cache", "workers"), [("none", 0), ("none", 1), ("ram", 0), ("device", 0)])
def test_the_loader_applies_them_in_each_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Any, workers: int
) -> None:
    write_yolo(tmp_path, {f"{i}": "0 0.5 0.5 0.2 0.2\n" for i in range(8)})
    write_yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.2\n"}, split="val")
    options: dict[str, Any] = {"image_size": 64, "batch_size": 4, "num_workers": workers, "cache": cache}
    data = DetectionDataModule(root=str(tmp_path), **options, classic_albumentations=True)
    data.effects = Effects(0, probability=0.3)
    plain = DetectionDataModule(root=str(tmp_path), **options)
    loaders = []
    for module in (data, plain):
        module.setup("fit")
        loaders.append(module.train_dataloader())
    for epoch in range(2):
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        changes = 0
        for found, raw in zip(*loaders, strict=True):
            for row, index in enumerate(found.index.tolist()):
                expected = raw.images[row].permute(1, 2, 0).numpy().copy()
                before = expected.copy()
                Effects(0, probability=0.3).apply(expected, epoch, index)
                assert np.array_equal(found.images[row].permute(1, 2, 0).numpy(), expected)
                changes += not np.array_equal(before, expected)
        assert changes > 1
    loaders[0].sampler.resume(1, seen=4)
    (earlier,) = loaders[0].earlier(1)
    loaders[0].sampler.resume(1, seen=0)
    first = next(iter(loaders[0]))
    assert np.array_equal(earlier.images.numpy(), first.images.numpy())
    for module in (data, plain):
        module.teardown("fit")
