"""Room for the labels of a batch: enough in every batch, known without its device, and of few sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.augment_reference import make_batch
from yolo_lightning.data.augment import Augmentation, AugmentationConfig
from yolo_lightning.data.augment.augmentation import AugmentationCore, label_room
from yolo_lightning.data.batch import Batch, on_canvas

CASES: dict[str, dict[str, Any]] = {
    "mosaic": {},
    "seldom mosaic": {"mosaic": 0.5},
    "mixup": {"mixup": 0.7, "mosaic": 0.8},
    "cutmix": {"cutmix": 0.6, "mixup": 0.5},
    "still": {"scale": 0.0, "translate": 0.0, "mosaic": 0.0},  # no label leaves the picture
}


@pytest.fixture(autouse=True)
def no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels are not made: labels alone count."""
    monkeypatch.setattr(AugmentationCore, "forward", lambda self, pixels, *_: torch.zeros(1, 3, 64, 64))


def epoch_of_batches(crowded: bool = True) -> list[Batch]:
    """Five batches of four images and one of three; one image has 40 labels, the others up to 5."""
    batches = []
    for number in range(6):
        batch = make_batch(4 if number < 5 else 3, 64, capacity=40, seed=number, first_index=4 * number)
        count = batch.count % 6
        if crowded and number == 2:
            count[1] = 40
            batch.targets[1] = batch.targets[:, :20].flatten(0, 1)[:40]
            batch.targets[1, :, 1:] = torch.tensor([8.0, 8.0, 56.0, 56.0])
        batches.append(batch._replace(count=count))
    return batches


@pytest.mark.parametrize("case", CASES)
def test_no_label_is_lost(case: str) -> None:
    """Tables as small as they may be have the labels of tables with room for everything."""
    tight, roomy = (Augmentation(AugmentationConfig(**CASES[case]), recent_images=0) for _ in range(2))
    tight.labels_per_image, roomy.labels_per_image = 0.0, 1e6
    most, is_smaller = 0, False
    for epoch in range(3):
        for batch in epoch_of_batches():
            for augmentation in (tight, roomy):
                augmentation.recent.batches = 3
            mosaic = epoch < 2  # as with ``close_mosaic``
            (_, found, mask), (_, expected, is_label) = (a(batch, epoch, mosaic) for a in (tight, roomy))
            assert torch.equal(found[mask], expected[is_label])
            is_smaller |= len(mask) < len(is_label)
            most = max(most, int(mask.sum()))
    assert most > 40 and is_smaller


def test_rectangles_lose_no_label() -> None:
    tight, roomy = Augmentation(AugmentationConfig()), Augmentation(AugmentationConfig())
    tight.labels_per_image, roomy.labels_per_image = 0.0, 1e6
    for batch in epoch_of_batches():
        batch = on_canvas(batch, 48, 64)
        (_, found, mask), (_, expected, is_label) = (a(batch, 0, False, rect=True) for a in (tight, roomy))
        assert torch.equal(found[mask], expected[is_label])


def test_a_resumed_epoch_has_the_room_of_an_uninterrupted_one() -> None:
    straight, resumed = Augmentation(AugmentationConfig()), Augmentation(AugmentationConfig())
    straight.labels_per_image = resumed.labels_per_image = 0.0
    batches = epoch_of_batches()
    before = [straight(batch, 1)[1] for batch in batches]
    for batch in batches[:3]:
        resumed.remember(batch, 1)
    for batch, expected in zip(batches[3:], before[3:], strict=True):
        assert torch.equal(resumed(batch, 1)[1], expected)


def test_a_crowded_image_makes_only_its_own_batches_larger() -> None:
    sizes = {}
    for crowded in (False, True):
        augmentation = Augmentation(AugmentationConfig())
        augmentation.labels_per_image = 2.5
        sizes[crowded] = [
            len(augmentation(batch, epoch)[2]) for epoch in range(4) for batch in epoch_of_batches(crowded)
        ]
    assert set(sizes[False]) == {64}
    assert set(sizes[True]) <= {64, 480, 640}  # or with room for all labels, of the three last images, too
    assert sizes[True].count(64) >= 8


@pytest.mark.parametrize(
    ("labels", "images", "mean", "most", "room"),
    [
        (0, 16, 13.4, 9999, 2048),  # 1.5 x 4 x 13.4 x 16 = 1,286
        (2048, 16, 13.4, 9999, 2048),
        (2049, 16, 13.4, 40000, 8192),
        (2049, 16, 13.4, 9999, 9999),
        (0, 16, 13.4, 4096, 4096),
        (5, 1, 0.1, 9999, 16),
        (17, 1, 0.1, 9999, 64),
    ],
)
def test_sizes_by_hand(labels: int, images: int, mean: float, most: int, room: int) -> None:
    assert label_room(labels, images, mean, most) == room
