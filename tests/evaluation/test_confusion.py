from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_lightning.evaluation.confusion import LabelledBoxes, confusion_matrix


def boxes_of(rows: list[tuple[int, int, float, float, float, float]]) -> LabelledBoxes:
    """Rows of image, class, x1, y1, x2, y2."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    image, label = table[:, :2].astype(np.int64).T
    return LabelledBoxes(image, label, table[:, 2:].astype(np.float32))


def overlap(found: np.ndarray, truth: np.ndarray, is_crowd: bool) -> float:
    fx1, fy1, fx2, fy2 = map(float, found)
    tx1, ty1, tx2, ty2 = map(float, truth)
    width, height = min(fx2, tx2) - max(fx1, tx1), min(fy2, ty2) - max(fy1, ty1)
    if width <= 0 or height <= 0:
        return 0.0
    own = (fx2 - fx1) * (fy2 - fy1)
    other = (tx2 - tx1) * (ty2 - ty1)
    return width * height / (own if is_crowd else own + other - width * height)


def slow_confusion(
    found: LabelledBoxes, truth: LabelledBoxes, crowd: np.ndarray, num_classes: int
) -> np.ndarray:
    """Image by image and box by box, after the description of the classic code."""
    matrix = np.zeros((num_classes + 1, num_classes + 1), int)
    for image in {*found.image.tolist(), *truth.image.tolist()}:
        dets, truths = np.flatnonzero(found.image == image), np.flatnonzero(truth.image == image)
        chosen_by: dict[int, list[tuple[float, int]]] = {}
        in_crowd = set()
        for d in dets:
            best, best_overlap = None, 0.45
            for g in truths:
                value = overlap(found.boxes[d], truth.boxes[g], bool(crowd[g]))
                if crowd[g] and value > 0.45:
                    in_crowd.add(d)
                elif not crowd[g] and value > best_overlap:
                    best, best_overlap = g, value
            if best is not None:
                chosen_by.setdefault(best, []).append((best_overlap, d))
        taken = set()
        for g in truths:
            if crowd[g]:
                continue
            row = num_classes
            if g in chosen_by:
                value = max(value for value, _ in chosen_by[g])
                d = min(d for v, d in chosen_by[g] if v == value)
                taken.add(d)
                row = found.label[d]
            matrix[row, truth.label[g]] += 1
        for d in dets:
            if d not in taken and d not in in_crowd:
                matrix[found.label[d], num_classes] += 1
    return matrix


def random_boxes(rng: np.random.Generator, images: int, count: int, num_classes: int) -> LabelledBoxes:
    """On a coarse grid, so that many overlap, some meet 0.45 exactly, some tie and some are empty."""
    corner = rng.integers(0, 6, (count, 2))
    size = rng.integers(0, 10, (count, 2))
    return LabelledBoxes(
        rng.integers(0, images, count),
        rng.integers(0, num_classes, count),
        np.concatenate((corner, corner + size), axis=1).astype(np.float32),
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 5),
    found=st.integers(0, 25),
    truths=st.integers(0, 15),
    num_classes=st.integers(1, 4),
)
def test_equals_a_slow_reference(seed: int, images: int, found: int, truths: int, num_classes: int) -> None:
    rng = np.random.default_rng(seed)
    detections, annotations = (random_boxes(rng, images, n, num_classes) for n in (found, truths))
    crowd = rng.random(truths) < 0.2
    matrix = confusion_matrix(detections, annotations, crowd, num_classes)
    np.testing.assert_array_equal(matrix, slow_confusion(detections, annotations, crowd, num_classes))


def test_the_number_of_pairs_at_once_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    arguments = (random_boxes(rng, 4, 60, 3), random_boxes(rng, 4, 40, 3), rng.random(40) < 0.1, 3)
    whole = confusion_matrix(*arguments)
    monkeypatch.setattr("yolo_lightning.evaluation.coco_matching._PAIRS_AT_ONCE", 7)
    np.testing.assert_array_equal(confusion_matrix(*arguments), whole)


def test_a_hand_worked_case() -> None:
    truth = boxes_of([
        (0, 0, 0, 0, 10, 10),  # found as class 1
        (0, 1, 20, 20, 30, 30),  # missed: the same class is found elsewhere, and in another image
        (1, 1, 0, 0, 10, 10),  # found twice
    ])  # fmt: skip
    found = boxes_of([
        (0, 1, 0, 0, 10, 9),
        (0, 1, 50, 50, 60, 60),  # of nothing
        (1, 1, 20, 20, 30, 30),  # of nothing in its own image
        (1, 0, 0, 0, 10, 8),  # overlaps less than the next one: of nothing
        (1, 1, 0, 0, 10, 9),
    ])  # fmt: skip
    matrix = confusion_matrix(found, truth, np.zeros(3, bool), 2)
    assert matrix.tolist() == [[0, 0, 1], [1, 1, 2], [0, 1, 0]]


def test_a_detection_that_another_displaces_is_false_though_it_overlaps_a_free_annotation() -> None:
    # As in the classic code: each detection chooses once.
    truth = boxes_of([(0, 0, 0, 0, 10, 10), (0, 0, 0, 3, 10, 13)])
    found = boxes_of([(0, 0, 0, 0, 10, 10), (0, 0, 0, 1, 10, 11)])
    assert confusion_matrix(found, truth, np.zeros(2, bool), 1).tolist() == [[1, 1], [1, 0]]


def test_a_crowd_is_neither_missed_nor_are_detections_in_it_false() -> None:
    truth = boxes_of([(0, 0, 0, 0, 100, 100), (0, 1, 200, 0, 210, 10)])
    found = boxes_of([(0, 0, 10, 10, 20, 20), (0, 1, 50, 50, 60, 60), (0, 0, 200, 0, 210, 10)])
    matrix = confusion_matrix(found, truth, np.array([True, False]), 2)
    assert matrix.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_an_overlap_of_exactly_the_threshold_is_too_little() -> None:
    truth = boxes_of([(0, 0, 0, 0, 20, 20)])
    assert confusion_matrix(boxes_of([(0, 0, 0, 0, 20, 9)]), truth, np.zeros(1, bool), 1)[0, 0] == 0
    assert confusion_matrix(boxes_of([(0, 0, 0, 0, 20, 9.1)]), truth, np.zeros(1, bool), 1)[0, 0] == 1


def test_nothing_at_all() -> None:
    empty = boxes_of([])
    assert confusion_matrix(empty, empty, np.zeros(0, bool), 2).tolist() == [[0] * 3] * 3
