from __future__ import annotations

import numpy as np
import pytest

from yolo_lightning.evaluation.confusion import LabelledBoxes
from yolo_lightning.evaluation.suspicions import KINDS, find_suspicions

Row = tuple[int, int, list[float]]
Found = tuple[int, int, list[float], float]
Judged = tuple[str, float, int, int]
A, B, FAR = [0.0, 0, 100, 100], [200.0, 0, 300, 100], [0.0, 300, 100, 400]
CONFIDENCES = np.linspace(0.1, 0.99, 200)
AGREEING: list[Found] = [(100 + n, label, A, c) for n, c in enumerate(CONFIDENCES) for label in (0, 1)]
AGREEING = [(image + 500 * label, label, box, c) for image, label, box, c in AGREEING]
"""Detections of two classes that are all on a label, each in an image of its own."""


def boxes(rows: list[Row]) -> LabelledBoxes:
    """Image, class and box of each."""
    return LabelledBoxes(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.float32).reshape(-1, 4),
    )


def judged(
    found: list[Found], truth: list[Row], crowd: tuple[int, ...] = (), beside: list[Found] = AGREEING
) -> list[Judged]:
    """Kind, score, detection and annotation of each suspicion, in a data set that mostly agrees."""
    every, labels = [*found, *beside], [*truth, *(row[:3] for row in beside)]
    scores = np.array([score for *_, score in every], np.float32)
    is_crowd = np.isin(np.arange(len(labels)), crowd)
    result = find_suspicions(boxes([row[:3] for row in every]), scores, boxes(labels), is_crowd)
    rows = zip(*(column.tolist() for column in result), strict=True)
    return [(KINDS[kind], pytest.approx(score, abs=0.03), d, g) for kind, score, d, g in rows]


def test_labels_that_are_found_are_not_suspicious() -> None:
    assert judged([(0, 1, A, 0.95), (1, 0, B, 0.95)], [(0, 1, A), (1, 0, B)]) == []
    assert judged([], [], beside=[]) == []


def test_a_sure_detection_without_a_label_is_a_missing_label() -> None:
    found = [(0, 1, A, 0.95), (0, 1, B, 0.8), (1, 1, FAR, 0.9), (0, 0, FAR, 0.05)]
    assert sorted(judged(found, [(0, 1, A)])) == [
        ("missing label", 1.0, 1, -1),
        ("missing label", 1.0, 2, -1),
    ]


def test_a_network_that_is_often_wrong_proves_less() -> None:
    wrong: list[Found] = [(2000 + n, 1, FAR, c) for n, c in enumerate(CONFIDENCES[100:])]  # half of the sure
    scores = np.array([c for *_, c in (*AGREEING, *wrong)], np.float32)
    every = boxes([row[:3] for row in (*AGREEING, *wrong)])
    truth = boxes([row[:3] for row in AGREEING])
    result = find_suspicions(every, scores, truth, np.zeros(len(truth.label), bool), least=0.1)
    missing = result.score[result.kind == KINDS.index("missing label")]
    assert len(missing) == len(wrong)
    assert missing.max() < 0.75  # although confidences reach 0.99


def test_where_much_is_unlabelled_one_more_proves_less() -> None:
    alone = judged([(0, 1, A, 0.9)], [])
    places = [[150.0 * n, 0, 150 * n + 100, 100] for n in range(5)]
    many = judged([(0, 1, place, 0.9) for place in places], [])
    assert alone == [("missing label", 1.0, 0, -1)]
    assert len(many) == 5 and all(score == 0.6 for _, score, _, _ in many)  # (1 + 1 / 5) / 2
    some = judged([(0, 1, place, 0.9) for place in places], [(0, 1, place) for place in places[:3]])
    assert [score for _, score, _, _ in some] == [0.9, 0.9]  # (1 + 4 / 5) / 2


def test_of_overlapping_detections_one_is_a_missing_label() -> None:
    shifted = [10.0, 0, 110, 100]  # an IoU of 0.82 with A
    assert judged([(0, 1, A, 0.6), (0, 0, shifted, 0.9)], []) == [("missing label", 1.0, 1, -1)]
    # nor is a poor box of an object that a better one has found
    assert judged([(0, 1, A, 0.9), (0, 1, [20.0, 0, 120, 100], 0.3)], [(0, 1, A)]) == []


def test_another_class_on_a_label() -> None:
    found = [(0, 0, A, 0.9), (0, 1, A, 0.18)]
    assert judged(found, [(0, 1, A)]) == [("wrong class", 0.8, 0, 0)]


def test_a_box_beside_the_label_is_one_suspicion() -> None:
    beside = [50.0, 0, 150, 100]  # an IoU of a third with A
    assert judged([(0, 1, beside, 0.9)], [(0, 1, A)]) == [("loose box", 1.0, 0, 0)]
    # the neighbour of a label that is found is another object
    found = [(0, 1, beside, 0.9), (0, 1, A, 0.95)]
    assert judged(found, [(0, 1, A)]) == [("missing label", 1 - 1 / 3, 0, -1)]
    # and one that belongs to another label says nothing about this one
    assert judged([(0, 1, beside, 0.9)], [(0, 1, A), (0, 1, beside)]) == [("spurious label", 0.54, -1, 0)]


def test_a_box_that_fits_badly() -> None:
    larger = [0.0, 0, 100, 190]  # an IoU of 0.526 with A
    assert judged([(0, 1, larger, 0.95)], [(0, 1, A)]) == [("loose box", 0.95 * (0.7 - 0.526) / 0.3, 0, 0)]
    assert judged([(0, 1, [0.0, 0, 100, 135], 0.95)], [(0, 1, A)]) == []


def test_silence_proves_as_much_as_the_class_is_known() -> None:
    assert judged([], [(0, 1, A)]) == [("spurious label", 0.54, -1, 0)]  # the mean confidence on the others
    unsure: list[Found] = [(n, label, box, c / 2) for n, label, box, c in AGREEING]
    assert judged([], [(0, 1, A)], beside=unsure) == []


def test_crowds_excuse_what_lies_in_them_and_are_never_wrong() -> None:
    inside = [10.0, 10, 50, 50]
    assert judged([(0, 1, inside, 0.9)], [(0, 1, A)], crowd=(0,)) == []
    assert judged([(0, 1, B, 0.9)], [(0, 1, A)], crowd=(0,)) == [("missing label", 1.0, 0, -1)]
