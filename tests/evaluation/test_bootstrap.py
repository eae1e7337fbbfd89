from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.evaluation.test_mean_average_precision import feed, pycocotools_figures, random_images
from yolo_lightning.evaluation.bootstrap import (
    draw_weights,
    estimate_difference,
    estimate_map,
    weighted_map,
)
from yolo_lightning.evaluation.image_matches import ImageMatches
from yolo_lightning.evaluation.mean_average_precision import CocoMeanAveragePrecision


def evaluated(images: list[dict[str, Any]], num_classes: int = 3) -> tuple[ImageMatches, float]:
    metric = CocoMeanAveragePrecision(num_classes)
    feed(metric, images)
    value = float(metric.compute()["map"])
    assert metric.details is not None
    return metric.details.by_image, value


def repeated(images: list[dict[str, Any]], weights: np.ndarray) -> list[dict[str, Any]]:
    """Each image as often as its weight says, under new ids in the order of the old."""
    ordered = sorted(images, key=lambda image: image["id"])
    copies = [image for image, count in zip(ordered, weights, strict=True) for _ in range(count)]
    return [image | {"id": number} for number, image in enumerate(copies)]


@pytest.mark.parametrize("seed", range(4))
def test_a_weighted_image_counts_as_its_copies_in_pycocotools(seed: int) -> None:
    images = random_images(np.random.default_rng(seed), 12, 3, 9)
    for image in images:  # scores tie between images, but not within one
        image["found"][:, 4] += np.arange(len(image["found"])) / 4096
    matches, value = evaluated(images)
    weights = draw_weights(12, 6, seed)
    found = weighted_map(matches, weights)
    assert np.float32(found[0]) == np.float32(value)
    for weight, of_resample in zip(weights, found, strict=True):
        copies = repeated(images, weight)
        assert of_resample == pytest.approx(float(pycocotools_figures(copies, 3)["map"]), abs=1e-9)
        assert np.float32(of_resample) == np.float32(evaluated(copies)[1])


def test_only_the_first_hundred_detections_of_a_class_count() -> None:
    truth = np.array([[0, 0, 0, 10, 10, 100, 0]], np.float32)
    found = np.zeros((102, 6), np.float32)
    found[:, :4], found[:, 4] = (50, 50, 60, 60), np.linspace(0.9, 0.1, 102)
    for place in (99, 100):
        images = [{"id": 1, "truth": truth, "found": found.copy()}]
        images[0]["found"][place, :4] = 0, 0, 10, 10
        matches, value = evaluated(images, 1)
        assert value == pytest.approx(0.01 if place == 99 else 0.0)
        assert weighted_map(matches, np.array([[3]]))[0] == pytest.approx(value)


def test_a_file_holds_what_was_written(tmp_path: Any) -> None:
    matches, _ = evaluated(random_images(np.random.default_rng(5), 9, 3, 9))
    for before, after in zip(matches, ImageMatches.from_bytes(matches.to_bytes()), strict=True):
        assert before.dtype == after.dtype and before.tolist() == after.tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"image": np.array([99], np.uint32)},
        {"hit": np.zeros(1, np.uint16)},
        {"truth_label": np.full(30, 7, np.uint32)},
        {"first": np.array([5, 0, 0, 5])},
        {"image_ids": np.zeros(0, np.int64)},
        {"image": np.zeros(1, np.float32)},
        {"image_ids": np.zeros((9, 1), np.int64)},
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(change: dict[str, np.ndarray]) -> None:
    matches, _ = evaluated(random_images(np.random.default_rng(5), 9, 3, 9))
    with pytest.raises(ValueError, match="do not belong together"):
        ImageMatches.from_bytes(matches._replace(**change).to_bytes())
    for contents in (b"", b"x" * 100, matches.to_bytes()[:-1]):
        with pytest.raises(ValueError, match="no matches"):
            ImageMatches.from_bytes(contents)


def test_the_digest_tells_other_labels_but_not_another_order() -> None:
    images = random_images(np.random.default_rng(8), 9, 3, 9)
    digest = evaluated(images)[0].digest.tolist()
    assert evaluated(images[::-1])[0].digest.tolist() == digest
    changed = [image | {"truth": image["truth"].copy()} for image in images]
    next(image for image in changed if len(image["truth"]))["truth"][0, 1] -= 1
    assert evaluated(changed)[0].digest.tolist() != digest
    assert evaluated([image | {"id": image["id"] + 1} for image in images])[0].digest.tolist() != digest


def detector(skill: float, seed: int, count: int = 120) -> list[dict[str, Any]]:
    """Images of one to five boxes, the same for all seeds; a share ``skill`` of them is found."""
    scene, rng = np.random.default_rng(0), np.random.default_rng((1, seed))
    images = []
    for number in range(count):
        n = scene.integers(1, 6)
        corner = scene.uniform(0, 400, (n, 2))
        boxes = np.concatenate((corner, corner + scene.uniform(20, 80, (n, 2))), axis=1)
        label = scene.integers(0, 2, n)
        noise = rng.normal(0, 3, (n, 4)) + np.where(rng.random((n, 1)) < skill, 0, 200)
        images.append(
            {
                "id": number,
                "truth": np.column_stack((label, boxes, np.full(n, 900.0), np.zeros(n))).astype(np.float32),
                "found": np.column_stack((boxes + noise, rng.random(n), label)).astype(np.float32),
            }
        )
    return images


def test_a_better_detector_is_called_better_and_an_equal_one_is_not() -> None:
    good, alike, bad = (evaluated(detector(*of), 2)[0] for of in ((0.8, 1), (0.8, 2), (0.5, 3)))
    found = estimate_difference([bad], [good], 300)
    assert found.verdict == "better" and 0 < found.low < found.value < found.high
    assert estimate_difference([good], [bad], 300).verdict == "worse"
    assert estimate_difference([good], [alike], 300).verdict == "no difference shown"
    assert estimate_difference([good], [good], 50) == (0.0, 0.0, 0.0)  # pairs cancel


def test_seeds_that_differ_widen_the_interval() -> None:
    ours = [evaluated(detector(skill, 10 + n), 2)[0] for n, skill in enumerate((0.5, 0.7, 0.9))]
    theirs = [evaluated(detector(0.65, 20 + n), 2)[0] for n in range(3)]
    found = estimate_difference(theirs, ours, 300)
    of_one = estimate_difference(theirs[:1], ours[1:2], 300)
    assert found.verdict == "no difference shown"
    assert found.high - found.low > 1.5 * (of_one.high - of_one.low)
    means = [np.mean([estimate_map(run, 1).value for run in side]) for side in (ours, theirs)]
    assert found.value == pytest.approx(means[0] - means[1])


def test_resamples_without_a_label_do_not_count() -> None:
    empty = np.zeros((0, 7), np.float32)
    labelled = np.array([[0, 0, 0, 10, 10, 100, 0]], np.float32)
    found = np.array([[0, 0, 10, 10, 0.9, 0]], np.float32)
    images = [{"id": i, "truth": empty if i else labelled, "found": found} for i in range(6)]
    value, low, high = estimate_map(evaluated(images, 1)[0])
    assert 0 < low <= value <= high
