from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.evaluation.test_confusion import slow_confusion
from tests.evaluation.test_mean_average_precision import feed, random_images
from yolo_lightning.evaluation.confusion import LabelledBoxes
from yolo_lightning.evaluation.image_matches import ImageMatches
from yolo_lightning.evaluation.mean_average_precision import CocoMeanAveragePrecision
from yolo_lightning.evaluation.precision_recall import (
    EvaluationDetails,
    confidence_curves,
    counts_at,
    describe_evaluation,
    precision_at_recall,
    smooth,
)


def evaluate(images: list[dict[str, Any]], num_classes: int) -> EvaluationDetails:
    metric = CocoMeanAveragePrecision(num_classes)
    feed(metric, images)
    metric.compute()
    assert metric.details is not None
    return metric.details


def coco_evaluation(images: list[dict[str, Any]], num_classes: int) -> COCOeval:
    """All areas alone, 100 detections of an image and class."""
    annotations: list[dict[str, Any]] = []
    for image in images:
        for label, x1, y1, x2, y2, area, crowd in image["truth"].astype(np.float64):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append({"id": len(annotations) + 1, "image_id": image["id"], "bbox": box,
                                "category_id": int(label), "area": area, "iscrowd": int(crowd)})  # fmt: skip
    results = [
        {
            "image_id": image["id"],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": s,
            "category_id": int(label),
        }
        for image in images
        for x1, y1, x2, y2, s, label in image["found"].astype(np.float64)
    ]
    with redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"info": {}, "images": [{"id": image["id"]} for image in images],
                         "categories": [{"id": c} for c in range(num_classes)],
                         "annotations": annotations}  # fmt: skip
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results) if results else COCO(), "bbox")
        evaluation.params.imgIds = [image["id"] for image in images]
        evaluation.params.maxDets = [100]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def slow_details(
    images: list[dict[str, Any]], num_classes: int
) -> tuple[list[list[tuple[float, bool]]], list[int]]:
    """Of each class its scores with their hits, best first, and how many annotations, by pycocotools."""
    found: list[list[tuple[float, bool]]] = [[] for _ in range(num_classes)]
    truths = [0] * num_classes
    for entry in coco_evaluation(images, num_classes).evalImgs:
        if entry is None:
            continue
        label = entry["category_id"]
        truths[label] += int((np.asarray(entry["gtIgnore"]) == 0).sum())
        ignored, matches = entry["dtIgnore"][0], entry["dtMatches"][0]  # at IoU 0.5
        for score, skip, match in zip(entry["dtScores"], ignored, matches, strict=True):
            if not skip:
                found[label].append((score, match > 0))
    return [sorted(rows, key=lambda row: -row[0]) for rows in found], truths


def interpolated(points: list[tuple[float, float]], at: float, above: float) -> float:
    """Linear between (score, value) points of falling scores."""
    if at > points[0][0]:
        return above
    last = [point for point in points if point[0] >= at][-1]
    following = [point for point in points if point[0] < at]
    if not following or last[0] == at:
        return last[1]
    part = (last[0] - at) / (last[0] - following[0][0])
    return last[1] + part * (following[0][1] - last[1])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 10), num_classes=st.integers(1, 4))
def test_scores_hits_and_counts_are_those_of_pycocotools(seed: int, count: int, num_classes: int) -> None:
    images = random_images(np.random.default_rng(seed), count, num_classes, most=14)
    details = evaluate(images, num_classes)
    found, truths = slow_details(images, num_classes)
    assert details.truths.tolist() == truths
    thresholds = np.linspace(0, 1, 17)  # sixteenths are scores, too
    counts = counts_at(details, thresholds)
    for label, rows in enumerate(found):
        start, end = details.first[label : label + 2]
        scores = details.score[start:end]
        np.testing.assert_allclose(scores, [score for score, _ in rows])
        for distinct in np.unique(scores):  # the order of equal scores is not given
            hits = sum(hit for score, hit in rows if np.float32(score) == distinct)
            assert details.hit[start:end][scores == distinct].sum() == hits
        for place, threshold in enumerate(thresholds):
            tp = sum(hit for score, hit in rows if score >= threshold)
            fp = sum(not hit for score, hit in rows if score >= threshold)
            tn = sum(not hit for score, hit in rows if score < threshold)
            assert counts[:, label, place].tolist() == [tp, fp, tn, truths[label] - tp]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 10), num_classes=st.integers(1, 4))
def test_precision_at_recall_is_that_of_pycocotools(seed: int, count: int, num_classes: int) -> None:
    images = random_images(np.random.default_rng(seed), count, num_classes, most=14)
    details = evaluate(images, num_classes)
    expected = coco_evaluation(images, num_classes).eval["precision"][0, :, :, 0, 0].T  # (C, 101)
    curves = precision_at_recall(details)
    np.testing.assert_allclose(curves, np.where(expected < 0, np.nan, expected), atol=1e-9)
    np.testing.assert_allclose(curves.mean(axis=1), details.average_precision[:, 0], atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 10), num_classes=st.integers(1, 4))
def test_curves_against_confidence_equal_a_slow_reference(seed: int, count: int, num_classes: int) -> None:
    images = random_images(np.random.default_rng(seed), count, num_classes, most=14)
    found, truths = slow_details(images, num_classes)
    confidence = np.linspace(0, 1, 33)
    curves = confidence_curves(evaluate(images, num_classes), confidence)
    for label, (rows, total) in enumerate(zip(found, truths, strict=True)):
        if total == 0:
            assert np.isnan(curves.f1[label]).all()
            continue
        hits = np.cumsum([hit for _, hit in rows])
        scores = [float(np.float32(score)) for score, _ in rows]
        # Equal scores count together, whatever their order.
        ends = [i for i in range(len(rows)) if i + 1 == len(rows) or scores[i + 1] < scores[i]]
        for place, at in enumerate(confidence):
            precision = recall = 0.0
            if rows:
                precision = interpolated([(scores[i], hits[i] / (i + 1)) for i in ends], at, 1.0)
                recall = interpolated([(scores[i], hits[i] / total) for i in ends], at, 0.0)
            f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
            given = [getattr(curves, name)[label, place] for name in ("precision", "recall", "f1")]
            assert given == pytest.approx([precision, recall, f1], abs=1e-6)


def slow_operating_point(
    images: list[dict[str, Any]], num_classes: int
) -> tuple[float, dict[str, list[float | None]]]:
    """Confidence of the best mean F1, and precision, recall and F1 of each class there.

    Matches are those of pycocotools. As in ``ap_per_class`` of yolov5, the mean over the classes is smoothed
    by a moving average before its maximum is taken.
    """
    found, truths = slow_details(images, num_classes)
    curves: dict[int, list[tuple[float, float, float]]] = {}
    for label, (rows, total) in enumerate(zip(found, truths, strict=True)):
        if total == 0:
            continue
        hits = np.cumsum([hit for _, hit in rows])
        scores = [float(np.float32(score)) for score, _ in rows]
        ends = [i for i in range(len(rows)) if i + 1 == len(rows) or scores[i + 1] < scores[i]]
        curves[label] = []
        for at in np.linspace(0, 1, 1001):
            p = interpolated([(scores[i], hits[i] / (i + 1)) for i in ends], at, 1.0) if rows else 0.0
            r = interpolated([(scores[i], hits[i] / total) for i in ends], at, 0.0) if rows else 0.0
            curves[label].append((p, r, 2 * p * r / (p + r) if p + r else 0.0))
    mean = [sum(curve[i][2] for curve in curves.values()) / len(curves) for i in range(1001)]
    padded = [mean[0]] * 50 + mean + [mean[-1]] * 50
    smoothed = [sum(padded[i : i + 101]) / 101 for i in range(1001)]
    best = smoothed.index(max(smoothed))
    of_classes = {
        name: [curves[label][best][i] if label in curves else None for label in range(num_classes)]
        for i, name in enumerate(("precision", "recall", "f1"))
    }
    return best / 1000, of_classes


@pytest.mark.parametrize("seed", [2, 3])
def test_precision_recall_and_f1_are_those_at_the_best_mean_f1(seed: int) -> None:
    images = random_images(np.random.default_rng(seed), 12, 4, most=14)
    metric = CocoMeanAveragePrecision(4)
    feed(metric, images)
    result = metric.compute()
    confidence, of_classes = slow_operating_point(images, 4)
    assert result["f1_confidence"].item() == pytest.approx(confidence, abs=1.5e-3)
    assert 0 < confidence < 1
    for name, values in of_classes.items():
        known = [value for value in values if value is not None]
        assert min(known) > 0 and max(known) < 1  # a case in which there is something to disagree about
        assert result[name].item() == pytest.approx(sum(known) / len(known), abs=1e-3)
        given = [None if np.isnan(value) else value for value in result[f"{name}_per_class"].tolist()]
        assert given == [None if value is None else pytest.approx(value, abs=1e-3) for value in values]
    fitness = 0.1 * result["map_50"].item() + 0.9 * result["map"].item()  # utils/metrics.py of yolov5
    assert result["fitness"].item() == pytest.approx(fitness, abs=1e-6)


NO_MATCHES = ImageMatches(*(np.zeros(0, np.int64) for _ in ImageMatches._fields))


def details_of(classes: list[tuple[list[float], list[bool], int]]) -> EvaluationDetails:
    """Scores, hits and the number of annotations of each class."""
    ends = np.cumsum([0, *(len(scores) for scores, _, _ in classes)])
    nothing = LabelledBoxes(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
    return EvaluationDetails(
        score=np.array([s for scores, _, _ in classes for s in scores], np.float32),
        hit=np.array([h for _, hits, _ in classes for h in hits], bool),
        first=ends,
        truths=np.array([truths for _, _, truths in classes]),
        average_precision=np.full((len(classes), 10), np.nan),
        confident=nothing,
        annotations=nothing,
        crowd=np.zeros(0, bool),
        by_image=NO_MATCHES,
    )


def test_the_best_f1_is_the_best_of_the_smoothed_mean() -> None:
    # Between 0.5 and 0.75 the class is found without an error; the narrow peak of the other counts less.
    details = details_of([([0.75, 0.5, 0.25], [True, True, False], 2), ([0.9, 0.1], [False, True], 5)])
    curves = confidence_curves(details)
    mean = curves.f1.mean(axis=0)
    filtered = [mean[max(0, i - 50) : i + 51].mean() for i in range(50, 951)]  # away from the ends
    best = 50 + int(np.argmax(filtered))
    assert curves.best_confidence == pytest.approx(curves.confidence[best], abs=2e-3)
    assert curves.best_f1 == mean[np.searchsorted(curves.confidence, curves.best_confidence)]
    assert 0.4 < curves.best_confidence < 0.6


def test_each_class_has_a_best_confidence_of_its_own() -> None:
    # The first class is found without an error from 0.4 to 0.8, the second from 0.1 to 0.3.
    first = ([0.8, 0.8, 0.4, 0.4, 0.35], [True, True, False, False, False], 2)
    second = ([0.3, 0.3, 0.1, 0.1, 0.05], [True, True, False, False, False], 2)
    curves = confidence_curves(details_of([first, second, ([], [], 3), ([0.5], [False], 0)]))
    best = curves.best_of_classes()
    expected = []
    for curve in curves.f1[:2]:
        around = [curve[i - 50 : i + 51].mean() for i in range(50, 951)]  # away from the ends
        expected.append(curves.confidence[50 + int(np.argmax(around))])
    assert best[:2] == pytest.approx(expected, abs=2e-3) and best[0] > 0.6 and best[1] < 0.3
    assert (best[2:] == curves.best_confidence).all()  # nothing is found, and nothing is there


def test_smoothing_is_a_box_that_continues_the_ends() -> None:
    values = np.arange(20.0) ** 2
    padded = [values[0]] * 2 + values.tolist() + [values[-1]] * 2
    expected = [sum(padded[i : i + 5]) / 5 for i in range(20)]
    np.testing.assert_allclose(smooth(values, 0.2), expected)


def test_a_class_that_is_never_found_has_zeros_and_one_without_annotations_is_unknown() -> None:
    details = details_of([([], [], 3), ([0.5], [False], 0), ([0.5], [True], 1)])
    curves = confidence_curves(details)
    assert (curves.precision[0] == 0).all() and (curves.recall[0] == 0).all()
    assert np.isnan(curves.recall[1]).all()
    # The mean is over the two classes that have annotations.
    assert curves.best_f1 == pytest.approx(0.5)


def test_nothing_to_find_is_unknown() -> None:
    details = details_of([([0.5], [False], 0)])
    described = json.loads(json.dumps(describe_evaluation(details, ["a"], 0), allow_nan=False))
    assert described["best_f1"] is None
    assert described["ap"] == [None]
    assert set(described["recall"][0]) == {None}


def test_details_live_from_compute_to_the_next_images() -> None:
    images = random_images(np.random.default_rng(7), 12, 3, most=14)
    metric = CocoMeanAveragePrecision(3)
    feed(metric, images)
    assert metric.details is None
    result = metric.compute()
    metric.reset()
    details = metric.details
    assert details is not None
    assert np.float32(np.nanmean(details.average_precision)) == float(result["map"])
    feed(metric, images[:4])
    assert metric.details is None


def test_the_confusion_matrix_is_of_confident_detections_and_of_each_image_once() -> None:
    rng = np.random.default_rng(5)
    images = random_images(rng, 30, 3, most=14)
    for image in images:  # no two overlaps alike, so that no tie is broken by an order
        for table, first in (("truth", 1), ("found", 0)):
            image[table][:, first : first + 4] += rng.random((len(image[table]), 4), dtype=np.float32)
    tables = []
    for name, first, label in (("found", 0, 5), ("truth", 1, 0)):
        rows = [(image["id"], row) for image in images for row in image[name]]
        if name == "found":
            rows = [(number, row) for number, row in rows if row[4] > 0.25]
        tables.append(
            LabelledBoxes(
                np.array([number for number, _ in rows]),
                np.array([int(row[label]) for _, row in rows]),
                np.array([row[first : first + 4] for _, row in rows]),
            )
        )
    crowd = np.concatenate([image["truth"][:, 6] > 0 for image in images])
    expected = slow_confusion(*tables, crowd, 3)
    details = evaluate(images + images[:5], 3)
    np.testing.assert_array_equal(details.confusion, expected)
    assert np.trace(expected[:3, :3]) > 0 < (expected[:3, :3] - np.diag(np.diag(expected[:3, :3]))).sum()


def test_a_description_has_the_shapes_that_a_reader_counts_on() -> None:
    images = random_images(np.random.default_rng(1), 20, 3, most=14)
    details = evaluate(images, 3)
    described = json.loads(json.dumps(describe_evaluation(details, ["a", "b", "c"], 4), allow_nan=False))
    assert (described["epoch"], described["class_names"]) == (4, ["a", "b", "c"])
    steps = len(described["confidence"])
    assert described["confidence"][0] == 0 and described["confidence"][-1] == 1
    for name in ("precision", "recall", "f1"):
        assert np.array(described[name], float).shape == (3, steps)
    assert np.array(described["pr_precision"], float).shape == (3, len(described["pr_recall"])) == (3, 101)
    assert np.array(described["ap"], float) == pytest.approx(details.average_precision.mean(axis=1), abs=1e-5)
    assert np.array(described["ap_50"], float) == pytest.approx(details.average_precision[:, 0], abs=1e-5)
    assert np.array(described["confusion"]).shape == (4, 4)
    assert described["best_f1"].keys() == {"confidence", "f1"}
