from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_lightning.data.batch import Batch
from yolo_lightning.data.images.decode import paste, resize
from yolo_lightning.data.letterbox import letterbox_geometry
from yolo_lightning.monitoring.pictures.views import (
    VIEW_PX,
    EvaluatedImage,
    WorstMistakes,
    cut_view,
    find_mistakes,
    split_batch,
    surroundings,
)

BOX = np.array([[60, 20, 100, 50]], np.float32)
GREY = 114
CLASSES = 3


def photograph(height: int, width: int, canvas: tuple[int, int], size: int = 128) -> EvaluatedImage:
    """A black image with one white object at ``BOX``, letterboxed into a rectangle as validation does."""
    original = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = BOX[0].astype(int)
    original[y1:y2, x1:x2] = 255
    place = letterbox_geometry(height, width, (size, size), canvas)
    pixels = np.full((*canvas, 3), GREY, np.uint8)
    paste(resize(original, place, linear=False), place, pixels)
    return EvaluatedImage(
        pixels=torch.from_numpy(pixels).permute(2, 0, 1),
        letterbox=np.array([place.gain_x, place.gain_y, place.pad_x, place.pad_y], np.float32),
        size=(height, width),
        position=0,
        image_id=1,
        detections=np.zeros((0, 6), np.float32),
        truth=np.zeros((0, 7), np.float32),
    )


def white(image: np.ndarray) -> list[float]:
    rows, columns = np.nonzero((image > 127).all(axis=2))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize(
    ("height", "width", "canvas"),
    [(120, 160, (128, 160)), (240, 110, (160, 96)), (90, 400, (64, 160)), (70, 110, (96, 160))],
)
@pytest.mark.parametrize("side", [None, 64, 300])
def test_boxes_lie_on_what_they_are_of(
    height: int, width: int, canvas: tuple[int, int], side: int | None
) -> None:
    view = cut_view(photograph(height, width, canvas))
    if side:
        view = view.fit(side)
        assert max(view.image.shape) == side
    assert not (view.image == GREY).all(axis=2).any()  # none of the padding
    assert view.place(BOX)[0] == pytest.approx(white(view.image), abs=1.5)
    height_ratio = view.image.shape[0] / view.image.shape[1] / (height / width)
    assert height_ratio == pytest.approx(1, abs=0.06)


def test_boxes_lie_right_in_a_part_of_the_image() -> None:
    image = photograph(120, 160, (128, 160))
    region = np.array([40, 10, 110, 60])
    view = cut_view(image, region)
    assert view.place(BOX)[0] == pytest.approx(white(view.image), abs=1.5)
    assert view.place(region[None].astype(np.float32))[0] == pytest.approx(
        [0, 0, view.image.shape[1], view.image.shape[0]], abs=1.01
    )


@pytest.mark.parametrize("region", [[-50, -50, -20, -20], [500, 500, 600, 600], [30, 30, 30, 30]])
def test_a_region_without_pixels_gives_one(region: list[float]) -> None:
    view = cut_view(photograph(120, 160, (128, 160)), np.array(region))
    assert min(view.image.shape) >= 1


def test_a_view_is_a_copy() -> None:
    image = photograph(120, 160, (128, 160))
    view = cut_view(image)
    before = view.image.copy()
    image.pixels.zero_()
    assert (view.image == before).all()
    assert image.without_pixels().pixels.untyped_storage().nbytes() == 0


@pytest.mark.parametrize(
    "box", [[0, 0, 10, 10], [50, 60, 90, 70], [630, 470, 640, 480], [0, 0, 640, 480], [-80, 20, 20, 900]]
)
def test_surroundings_are_in_the_image_and_around_the_box(box: list[float]) -> None:
    x1, y1, x2, y2 = surroundings(np.array(box, np.float32), (480, 640)).tolist()
    assert 0 <= x1 < x2 <= 640 and 0 <= y1 < y2 <= 480
    assert x1 <= max(box[0], 0) and y1 <= max(box[1], 0)
    assert x2 >= min(box[2], 640) and y2 >= min(box[3], 480)
    assert x2 - x1 >= 0.3 * 480 - 1e-6


def test_a_batch_is_taken_apart() -> None:
    detections = torch.zeros(2, 5, 6)
    detections[0, :3, 4] = torch.tensor([0.9, 0.25, 0.2])
    detections[1, :, 4] = 0.9  # padding, but for the first
    batch = Batch(
        images=torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4),
        targets=torch.zeros(2, 16, 5),
        count=torch.tensor([2, 0]),
        index=torch.tensor([5, 8]),
        image_ids=torch.tensor([50, 80]),
        original_sizes=torch.tensor([[4, 3], [3, 4]]),
        letterbox=torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 1]]),
        truth=torch.ones(2, 4, 7),
        truth_count=torch.tensor([3, 0]),
    )
    first, second = split_batch(batch, detections, torch.tensor([3, 1]))
    assert [len(first.detections), len(second.detections)] == [2, 1]
    assert [len(first.truth), len(second.truth)] == [3, 0]
    assert (first.size, first.position, first.image_id) == ((4, 3), 5, 50)
    assert (second.size, second.position, second.image_id) == ((3, 4), 8, 80)
    assert torch.equal(second.pixels, batch.images[1])
    batch.truth.zero_()
    assert (first.truth == 1).all()


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
