from __future__ import annotations

from pathlib import Path

import numpy as np

from yolo_lightning.data.annotations.summary import Flaws, IndexReport, summarise


def _measure(names: tuple[str, ...], classes: list[int], areas: list[float]) -> IndexReport:
    none = np.zeros(len(classes), np.bool_)
    return summarise(
        class_names=names, source=Path("a.json"), images=5, labelled_images=2,
        classes=np.array(classes, np.int64), areas=np.array(areas, np.float32), crowd=none,
        flaws=Flaws(none, none, none), describe=str, notes=["a note"],
    )  # fmt: skip


def test_sizes_have_the_bounds_of_coco() -> None:
    report = _measure(("a",), [0] * 5, [0, 1023.9, 1024, 9215.9, 9216])
    assert (report.small, report.medium, report.large) == (2, 2, 1)
    assert report.side_px == (0, 32, 96)
    assert report.class_counts == (5,)
    assert report.unlabelled == 3
    assert report.problems == ("a note",)


def test_unused_classes_are_one_sentence_with_the_first_names() -> None:
    names = tuple("abcdefgh")
    assert _measure(names, [0, 1], [1, 1]).problems[1:] == (
        "a.json: no label has the categories 'c', 'd', 'e', 'f', 'g' and 1 more; "
        "remove unused categories, or add labels",
    )
    (one,) = _measure(names[:2], [1], [1]).problems[1:]
    assert one.startswith("a.json: no label has the category 'a'; ")


def test_summary_of_many_classes_stays_short() -> None:
    names = tuple(f"class{i}" for i in range(80))
    text = _measure(names, [3, 3, 7], [1, 1, 1]).summary("train")
    assert "class3 2, class7 1" in text and "... 70 more ..." in text
    assert len(text.splitlines()) <= 6


def test_no_labels_at_all() -> None:
    report = _measure(("a",), [], [])
    assert report.side_px == (0, 0, 0) and "0 labels" in report.summary()
