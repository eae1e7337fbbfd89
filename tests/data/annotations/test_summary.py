from __future__ import annotations

from pathlib import Path

import numpy as np

from yolo_lightning.data.annotations.findings import Finding
from yolo_lightning.data.annotations.index import Annotations, DatasetIndex, build_index
from yolo_lightning.data.annotations.summary import summarise


def _index(names: tuple[str, ...], classes: list[int], areas: list[float]) -> DatasetIndex:
    """Annotations of the first two of five images."""
    n = len(classes)
    boxes = np.array([[i, 0, i + 5, 5] for i in range(n)], np.float64).reshape(-1, 4)
    return build_index(
        root=Path("/x"), split="train", source=Path("a.json"), class_names=names,
        category_ids=np.arange(len(names)), paths=[f"/x/{i}.png" for i in range(5)], image_ids=np.arange(5),
        sizes=np.full((5, 2), 100, np.int32), describe=lambda path, row: f"{path}: {row}",
        findings=[Finding("k", "a", "note", "mend")],
        annotations=Annotations(
            np.arange(n) % 2, np.arange(n), np.array(classes, np.int64), boxes, np.array(areas, np.float64),
            np.zeros(n, np.bool_),
        ),
    )  # fmt: skip


def test_sizes_have_the_bounds_of_coco() -> None:
    assert summarise(_index(("a",), [0] * 5, [0, 1023.9, 1024, 9215.9, 9216])).splitlines() == [
        "5 images (3 without labels), 5 labels of 1 classes",
        "  labels by class: a 5",
        "  box sizes: 2 small, 2 medium, 1 large; side 0 to 96 px, median 32 px",
        "  warning: a: note; mend",
    ]


def test_unused_classes_are_one_sentence_with_the_first_names() -> None:
    names = tuple("abcdefgh")
    assert [*map(str, _index(names, [0, 1], [1, 1]).findings[1:])] == [
        "a.json: no label has the categories 'c', 'd', 'e', 'f', 'g' and 1 more; "
        "remove unused categories, or add labels",
    ]
    (one,) = _index(names[:2], [1], [1]).findings[1:]
    assert str(one).startswith("a.json: no label has the category 'a'; ")


def test_summary_of_many_classes_stays_short() -> None:
    names = tuple(f"class{i}" for i in range(80))
    text = summarise(_index(names, [3, 3, 7], [1, 1, 1]), "train")
    assert "class3 2, class7 1" in text and "... 70 more ..." in text
    assert len(text.splitlines()) <= 6


def test_no_labels_at_all() -> None:
    text = summarise(_index(("a",), [], []))
    assert "0 labels" in text and "side 0 to 0 px" in text
