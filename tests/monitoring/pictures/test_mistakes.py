from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_lightning.monitoring.pictures.mistakes import VIEW_PX, WorstMistakes, find_mistakes
from yolo_lightning.monitoring.pictures.views import EvaluatedImage

CLASSES = 3


def random_image(seed: int, crowds: bool) -> tuple[np.ndarray, np.ndarray]:
    """Detections (n, 6) that often overlap annotations (m, 7), of their class or another."""
    random = np.random.default_rng(seed)
    corner, side = random.uniform(0, 100, (12, 2)), random.uniform(20, 60, (12, 2))
    boxes = np.concatenate((corner, corner + side), axis=1)
    classes = random.integers(0, CLASSES, 12)
    crowd = (random.random(12) < 0.3) & crowds
    truth = np.column_stack((classes, boxes, side.prod(axis=1), crowd)).astype(np.float32)
    copied = random.integers(0, 12, 16)
    found = boxes[copied] + random.normal(0, 6, (16, 4))
    label = np.where(random.random(16) < 0.8, classes[copied], random.integers(0, CLASSES, 16))
    score = np.sort(random.uniform(0.25, 1, 16))[::-1]
    ordered = np.concatenate(
        (np.minimum(found[:, :2], found[:, 2:]), np.maximum(found[:, :2], found[:, 2:])), 1
    )
    return np.column_stack((ordered, score, label)).astype(np.float32), truth


def by_cocoeval(detections: np.ndarray, truth: np.ndarray) -> tuple[set[int], set[int]]:
    """Rows that are wrong, and rows that are missed, at an IoU of 0.5."""

    def entry(i: int, label: float, box: np.ndarray, **more: Any) -> dict[str, Any]:
        x1, y1, x2, y2 = box.astype(float).tolist()
        return {"id": i + 1, "image_id": 1, "category_id": int(label) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1],
                **more}  # fmt: skip

    gt = COCO()
    gt.dataset = {
        "images": [{"id": 1}],
        "categories": [{"id": c + 1} for c in range(CLASSES)],
        "annotations": [
            entry(i, row[0], row[1:5], area=float(row[5]), iscrowd=int(row[6])) for i, row in enumerate(truth)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        gt.createIndex()
        results = [entry(i, row[5], row[:4], score=float(row[4])) for i, row in enumerate(detections)]
        evaluation = COCOeval(gt, gt.loadRes(results), "bbox")
        evaluation.params.maxDets = [300]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
    wrong, missed = set(), {i for i, row in enumerate(truth) if not row[6]}
    for outcome in filter(None, evaluation.evalImgs):
        ids = np.array(outcome["dtIds"])
        right = (outcome["dtMatches"][0] > 0) | outcome["dtIgnore"][0].astype(bool)
        wrong |= {int(i) - 1 for i in ids[~right]}
        missed -= {int(i) - 1 for i in outcome["dtMatches"][0] if i > 0}
    return wrong, missed


@pytest.mark.parametrize("crowds", [False, True])
def test_matches_are_those_of_cocoeval(crowds: bool) -> None:
    sizes = np.zeros(2, int)
    for seed in range(40):
        detections, truth = random_image(seed, crowds)
        errors = find_mistakes(detections, truth)
        wrong, missed = by_cocoeval(detections, truth)
        assert [set(rows) for rows in errors] == [wrong, missed]
        sizes += len(wrong), len(missed)
    assert (sizes > 40).all()  # there was something to find


def test_errors_come_worst_first() -> None:
    detections, truth = random_image(1, True)
    wrong, missed = find_mistakes(detections[::-1].copy(), truth)
    assert len(wrong) > 1 and len(missed) > 1
    assert (np.diff(detections[::-1][wrong, 4]) <= 0).all()
    assert (np.diff(truth[missed, 5]) <= 0).all()


def test_an_overlap_of_exactly_one_half_is_enough() -> None:
    truth = np.array([[0, 0, 0, 10, 10, 100, 0]], np.float32)
    assert find_mistakes(np.array([[0, 0, 10, 5, 0.9, 0]], np.float32), truth) == ([], [])


def test_of_two_detections_of_one_object_the_surer_is_right() -> None:
    truth = np.array([[1, 10, 10, 50, 50, 1600, 0]], np.float32)
    detections = np.array([[12, 10, 52, 50, 0.9, 1], [10, 10, 50, 50, 0.8, 1]], np.float32)
    assert find_mistakes(detections, truth) == ([1], [])


@pytest.mark.parametrize(("n", "m"), [(0, 0), (3, 0), (0, 3)])
def test_nothing_found_or_nothing_there(n: int, m: int) -> None:
    errors = find_mistakes(np.zeros((n, 6), np.float32), np.zeros((m, 7), np.float32))
    assert errors == ([*range(n)], [*range(m)])


def evaluated(seed: int, side: int = 160) -> EvaluatedImage:
    detections, truth = random_image(seed, True)
    return EvaluatedImage(
        pixels=torch.full((3, side, side), seed, dtype=torch.uint8),
        letterbox=np.array([side / 160, side / 160, 0, 0], np.float32),
        size=(160, 160),
        position=seed,
        image_id=seed + 100,
        detections=detections,
        truth=truth,
    )


def test_the_worst_of_all_images_are_kept() -> None:
    worst, images = WorstMistakes(4), [evaluated(seed) for seed in range(30)]
    scores, areas = [], []
    for image in images:
        wrong, missed = find_mistakes(image.detections, image.truth)
        worst.add(image)
        scores += [(-image.detections[i, 4], image.position, i) for i in wrong]
        areas += [(-image.truth[i, 5], image.position, i) for i in missed]
    kept = worst.take(8)
    assert [m.is_missed for m in kept] == [False] * 4 + [True] * 4
    assert [(m.image.position, m.row) for m in kept[:4]] == [entry[1:] for entry in sorted(scores)[:4]]
    assert [(m.image.position, m.row) for m in kept[4:]] == [entry[1:] for entry in sorted(areas)[:4]]
    for mistake in kept:
        image = images[mistake.image.position]
        assert (mistake.view.image == image.position).all()
        assert mistake.image.image_id == image.position + 100
        assert mistake.image.pixels.numel() == 0
        expected = image.truth[mistake.row, 1:5] if mistake.is_missed else image.detections[mistake.row, :4]
        assert (mistake.box == expected).all()


def test_of_mistakes_as_bad_as_each_other_the_first_stay() -> None:
    worst = WorstMistakes(2)
    image = evaluated(0)
    detections = np.array([[0, 0, 9, 9, 0.5, 0]], np.float32)
    for position in range(5):
        worst.add(image._replace(detections=detections, truth=image.truth[:0], position=position))
    assert [m.image.position for m in worst.take(4)] == [0, 1]


def test_one_kind_fills_the_places_of_the_other() -> None:
    worst, image = WorstMistakes(6), evaluated(3)
    worst.add(image._replace(truth=image.truth[:0]))
    assert [m.is_missed for m in worst.take(6)] == [False] * 6
    missed = image._replace(detections=image.detections[:0], truth=image.truth[image.truth[:, 6] == 0][:1])
    worst.add(missed)
    assert [m.is_missed for m in worst.take(6)] == [False] * 5 + [True]
    assert [m.is_missed for m in worst.take(1)] == [False]


def test_views_are_small_and_not_the_memory_of_the_batch() -> None:
    worst, image = WorstMistakes(8), evaluated(2, side=2000)
    worst.add(image)
    before = [m.view.image.copy() for m in worst.take(16)]
    image.pixels.zero_()
    for mistake, pixels in zip(worst.take(16), before, strict=True):
        assert max(mistake.view.image.shape) <= VIEW_PX
        assert (mistake.view.image == pixels).all()
