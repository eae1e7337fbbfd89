from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_data import annotation, image, write_coco
from yolo_lightning.data.annotations.source import DataSource
from yolo_lightning.data.image_size import Size
from yolo_lightning.monitoring.pictures.labels import (
    LabelStatistics,
    draw_label_statistics,
    label_statistics,
)

CROWD = {"counts": [0, 3600], "size": [60, 60]}


def of_coco(root: Path, image_size: Size | None) -> LabelStatistics:
    """Two images, one of them twice as wide as high, with labels that reach out, repeat, or are crowds."""
    write_coco(
        root,
        {
            "images": [image(1, "a.png", 40, 80), image(2, "b.png", 60, 60), image(3, "c.png", 60, 60)],
            "categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}, {"id": 11, "name": "owl"}],
            "annotations": [
                annotation(1, 1, 5, [60, 10, 20, 10]),
                annotation(2, 1, 9, [70, 0, 30, 40]),  # reaches out to the right: 10 px are inside
                annotation(3, 2, 9, [0, 0, 60, 60]),
                annotation(4, 2, 9, [0, 0, 60, 60]),  # repeats 3
                annotation(5, 2, 5, [0, 0, 30, 30], iscrowd=1, segmentation=CROWD),
            ],
        },
    )  # fmt: skip
    source = DataSource(root=root, annotations={}, images={})
    index = source.read("train", keep=False)
    return label_statistics(index, image_size)


def index_of(classes: int, labels: np.ndarray, boxes: np.ndarray, images: int) -> Any:
    """The part of an index that counts, of images of 640 x 640 px with as many labels each."""
    return SimpleNamespace(
        classes=labels.astype(np.int64),
        boxes=boxes.astype(np.float32),
        offsets=np.linspace(0, len(labels), images + 1).astype(np.int64),
        sizes=np.full((images, 2), 640, np.int32),
        trainable=np.ones(len(labels), bool),
        class_names=[str(label) for label in range(classes)],
    )


EMPTY = np.zeros(0), np.zeros((0, 4))


def test_counts_of_a_small_data_set(tmp_path: Path) -> None:
    found = of_coco(tmp_path, None)
    assert found.class_counts.tolist() == [1, 2, 0]
    assert found.images_by_labels.tolist() == [1, 1, 1]  # c has none, b one, a two
    assert (found.sizes.sum(), found.centres.sum()) == (3, 3)
    rows, columns = np.nonzero(found.centres)
    cells = len(found.centres)
    expected = {(15 / 40, 70 / 80), (20 / 40, 75 / 80), (0.5, 0.5)}  # y, x
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {
        (int(y * cells), int(x * cells)) for y, x in expected
    }


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [
        (None, {(20, 10), (10, 40), (60, 60)}),
        ((160, 160), {(40, 20), (20, 80), (160, 160)}),
        ((60, 160), {(30, 15), (15, 60), (60, 60)}),
    ],
)
def test_sizes_are_those_that_training_sees(
    tmp_path: Path, image_size: Size | None, expected: set[tuple[int, int]]
) -> None:
    found = of_coco(tmp_path, image_size)
    edges = found.size_edges_px
    assert edges[0] == 1 and edges[-2] < max(image_size or (80,)) <= edges[-1]
    assert np.allclose(edges[1:] / edges[:-1], 2**0.25)
    filled = {(width, height) for height, width in np.argwhere(found.sizes).tolist()}
    by_bisection = {
        tuple(min(int(np.sum(edges <= side)) - 1, len(edges) - 2) for side in pair) for pair in expected
    }
    assert filled == by_bisection


@pytest.mark.parametrize("classes", [1, 1203])
def test_a_figure_of_however_many_classes(classes: int) -> None:
    random = np.random.default_rng(0)
    corner = random.uniform(0, 300, (500, 2))
    boxes = np.concatenate((corner, corner + random.uniform(1, 300, (500, 2))), 1)
    index = index_of(classes, classes * random.random(500) ** 3, boxes, images=100)
    statistics = label_statistics(index, image_size=(320, 320))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as a letter that the font lacks
        figure = draw_label_statistics(
            statistics, ["红细胞", "ключ", *map(str, range(classes))][:classes], "train"
        )
    assert figure.shape == (900, 1200, 3) and figure.dtype == np.uint8
    assert (figure == 255).all(axis=2).mean() > 0.3 and np.unique(figure.reshape(-1, 3), axis=0).shape[0] > 50


def test_a_figure_of_no_label() -> None:
    statistics = label_statistics(index_of(2, *EMPTY, images=0))
    assert draw_label_statistics(statistics, ["a", "b"], "train").shape == (900, 1200, 3)


def test_names_that_matplotlib_would_set_as_formulas() -> None:
    names = ["$x^$", "cost $5 and $x^", "n" * 200]
    empty = label_statistics(index_of(3, *EMPTY, images=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw_label_statistics(empty, names, "three classes").ndim == 3
