from __future__ import annotations

import math
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.tiny_data import write_yolo
from yolo_lightning.data.augment import Augmentation, AugmentationConfig
from yolo_lightning.data.loading.image_weights import ImageWeights
from yolo_lightning.data.loading.sampler import TrainSampler
from yolo_lightning.data.module import DetectionDataModule

CAT, DOG, BIRD = (f"{label} 0.5 0.5 0.{2 + label} 0.4\n" for label in range(3))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six cats, two dogs and a bird; images 5 and 6 have two labels, image 7 has none."""
    texts = [CAT, CAT, CAT, CAT, CAT, CAT + DOG, DOG + BIRD, None]
    write_yolo(tmp_path, {f"{i}": text for i, text in enumerate(texts)}, names=("cat", "dog", "bird"))
    write_yolo(tmp_path, {"a": CAT}, names=("cat", "dog", "bird"), split="val")
    return tmp_path


def data(root: Path, **options: Any) -> DetectionDataModule:
    return DetectionDataModule(
        root=str(root), image_size=32, batch_size=4, image_weights=True, **{"cache": "none"} | options
    )


def test_weights_are_those_of_the_classic_code(root: Path) -> None:
    """``labels_to_image_weights`` of ultralytics/yolov5 v7.0, label by label."""
    index = data(root).index("train")
    counts, weights, precision = [6, 2, 1], ImageWeights(), [0.5, 0.9, 0.0]
    for ap in (None, precision):
        if ap:
            weights.note(0, ap)
        inverse = [1 / count for count in counts]
        class_weights = [
            w / sum(inverse) * (1 - a) ** 2 for w, a in zip(inverse, ap or [0, 0, 0], strict=True)
        ]
        expected = [sum(class_weights[int(c)] for c in index.labels(i)[:, 0]) for i in range(len(index))]
        found = weights.of_epoch(1, index)
        np.testing.assert_allclose(found / found.sum(), np.array(expected) / sum(expected), rtol=1e-6)
        assert found[7] == 0


def test_a_class_that_cannot_be_judged_has_the_mean_precision(root: Path) -> None:
    index, weights, mean = data(root).index("train"), ImageWeights(), ImageWeights()
    weights.note(0, [0.2, math.nan, 0.4])
    mean.note(0, [0.2, 0.3, 0.4])
    np.testing.assert_allclose(weights.of_epoch(1, index), mean.of_epoch(1, index))
    weights.note(0, [math.nan] * 3)
    np.testing.assert_allclose(weights.of_epoch(1, index), ImageWeights().of_epoch(0, index))
    weights.note(0, [1.0] * 3)
    assert (weights.of_epoch(1, index)[:7] > 0).all()


def test_a_validation_counts_from_the_next_epoch(root: Path) -> None:
    index, weights = data(root).index("train"), ImageWeights()
    before = [weights.of_epoch(epoch, index) for epoch in range(2)]
    weights.note(0, [0.9, 0.1, 0.1])
    weights.note(0, [0.8, 0.1, 0.1])  # a second validation in the same epoch
    first = weights.of_epoch(1, index)
    weights.note(1, [0.1, 0.8, 0.1])
    assert np.array_equal(weights.of_epoch(1, index), first) and not np.array_equal(first, before[1])
    assert not np.array_equal(weights.of_epoch(2, index), first)
    assert weights.class_ap == [(1, [0.8, 0.1, 0.1]), (2, [0.1, 0.8, 0.1])]


def test_images_are_drawn_as_often_as_their_weights_say(root: Path) -> None:
    module = data(root, num_workers=0)
    module.setup("fit")
    sampler = module.train_dataloader().sampler
    drawn = Counter(i % 8 for epoch in range(1500) for i in sampler.order(epoch))
    weights = ImageWeights().of_epoch(0, module.index("train"))
    shares = np.array([drawn[i] for i in range(8)]) / drawn.total()
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.015)
    assert sampler.order(3) == sampler.order(3) != sampler.order(4)
    first = TrainSampler(range(8), 4, same_order=True, weights=sampler.weights).order(0)
    assert module.image_weights is not None
    module.image_weights.note(0, [0.9, 0.9, 0.0])
    assert TrainSampler(range(8), 4, same_order=True, weights=sampler.weights).order(1) == first


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_follows_a_validation_at_the_end_of_the_epoch(root: Path, workers: int) -> None:
    module = data(root, num_workers=workers)
    module.setup("fit")
    loader = module.train_dataloader()
    assert module.image_weights is not None
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        found = [i for batch in loader for i in batch.index.tolist()]
        assert found == loader.sampler.order(epoch)
        stale = loader.sampler.order(epoch + 1)
        module.image_weights.note(epoch, [0.95 * (epoch % 2), 0.5, 0.95])
        assert loader.sampler.order(epoch + 1) != stale
    module.teardown("fit")


def test_precisions_are_saved_only_if_they_are_used(root: Path) -> None:
    module, resumed = data(root), data(root)
    assert module.image_weights is not None and resumed.image_weights is not None
    module.image_weights.note(4, [0.5, math.nan, 0.25])
    resumed.load_state_dict(module.state_dict())
    index = module.index("train")
    assert np.array_equal(resumed.image_weights.of_epoch(5, index), module.image_weights.of_epoch(5, index))
    assert DetectionDataModule(root=str(root)).state_dict() == {}


@pytest.mark.parametrize("cache", ["none", "device"])
def test_an_image_that_comes_again_is_augmented_differently(root: Path, cache: Any) -> None:
    module = data(root, cache=cache, num_workers=0)
    module.setup("fit")
    loader = module.train_dataloader()
    drawn = loader.sampler.order(0)
    assert len({i % 8 for i in drawn}) < 8 == len(set(drawn))
    assert sorted(i // 8 for i in drawn if i % 8 == 6) == list(range(sum(i % 8 == 6 for i in drawn)))
    batches = list(loader)
    assert [i for batch in batches for i in batch.index.tolist()] == drawn
    for batch in batches:
        again = {i: row for row, i in enumerate(batch.index.tolist()) if i % 8 == 6}
        pictures = [batch.images[row] for row in again.values()]
        assert all(torch.equal(picture, pictures[0]) for picture in pictures)
        images, _, _ = Augmentation(AugmentationConfig(mosaic=0.0))(batch, 0)
        for one, other in combinations(again.values(), 2):
            assert not torch.equal(images[one], images[other])
    module.teardown("fit")
