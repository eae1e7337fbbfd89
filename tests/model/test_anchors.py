from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from yolo_lightning.model.anchors import best_possible_recall, find_anchors
from yolo_lightning.model.heads import P5_ANCHORS_PX

Array = npt.NDArray[np.float64]
P5 = np.array(P5_ANCHORS_PX, np.float32).reshape(-1, 2)


def poles_and_wires(random: np.random.Generator) -> Array:
    long, thin = random.uniform(150, 600, 2000), random.uniform(4, 12, 2000)
    turned = random.random(2000) < 0.5
    return np.stack([np.where(turned, long, thin), np.where(turned, thin, long)], axis=1)


def mostly_small(random: np.random.Generator) -> Array:
    sides: Array = np.exp(random.normal(np.log(15), 0.9, (2000, 2))).clip(3, 630)
    return sides


def of_any_proportion(random: np.random.Generator) -> Array:
    width = np.exp(random.uniform(np.log(8), np.log(500), 2000))
    height = width * np.exp(random.normal(0, 1.2, 2000))
    return np.stack([width, height], axis=1).clip(3, 630)


SETS: dict[str, tuple[Callable[[np.random.Generator], Array], float, float]] = {
    "poles and wires": (poles_and_wires, 0.07, 1.0),
    "mostly small": (mostly_small, 0.95, 0.9985),
    "of any proportion": (of_any_proportion, 0.96, 0.9965),
}
"""Labels of odd shapes, a recall that the classic anchors miss, and the best that ``kmean_anchors`` of
ultralytics/yolov5 7.0.14 has reached (9 anchors, 1000 generations, seeds 0 to 4)."""


@pytest.mark.parametrize("name", SETS)
def test_odd_shapes_are_matched_at_least_as_well_as_by_the_classic_search(name: str) -> None:
    make, missed, classic = SETS[name]
    sizes = make(np.random.default_rng(0)).astype(np.float32)
    assert best_possible_recall(sizes, P5, 4.0) < missed
    found = find_anchors(sizes, 9, 4.0)
    ratios = np.maximum(sizes[:, None] / found, found / sizes[:, None]).max(axis=2)  # (T, 9)
    recall = (ratios.min(axis=1) < 4).mean()
    assert recall == pytest.approx(best_possible_recall(sizes, found, 4.0))
    assert recall >= max(classic, 0.99)
    assert (np.diff(found.prod(axis=1)) >= 0).all()


def test_the_search_is_the_same_each_time_and_takes_many_labels() -> None:
    sizes = mostly_small(np.random.default_rng(1)).astype(np.float32)
    many = np.tile(sizes, (12, 1))
    found = find_anchors(many, 9, 4.0)
    assert np.array_equal(found, find_anchors(many, 9, 4.0))
    assert best_possible_recall(many, found, 4.0) > 0.99


@pytest.mark.parametrize("count", [3, 9])
def test_no_more_labels_than_anchors(count: int) -> None:
    sizes = np.array([[5, 50], [5, 50], [200, 10]], np.float32)
    found = find_anchors(sizes, count, 2.0)
    assert found.shape == (count, 2) and best_possible_recall(sizes, found, 2.0) == 1


def test_recall_by_hand() -> None:
    sizes = np.array([[10, 10], [39, 10], [41, 10], [2, 10]], np.float32)
    assert best_possible_recall(sizes, np.array([[10, 10]], np.float32), 4.0) == 0.5
