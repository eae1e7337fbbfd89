from __future__ import annotations

from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.audit import count_found, measure_halvings, plant


def documents() -> dict[str, Any]:
    """Twenty images of ten boxes in each split."""
    return {
        split: {
            "images": [
                {"id": n, "file_name": f"{split}{n}.jpg", "width": 640, "height": 480} for n in range(20)
            ],
            "categories": [{"id": 1}, {"id": 2}, {"id": 7}],
            "annotations": [
                {"id": 10 * n + k, "image_id": n, "category_id": 1 + k % 2, "bbox": [60 * k, 40 * k, 50, 80]}
                for n in range(20)
                for k in range(10)
            ],
        }
        for split in ("train", "val")
    }  # fmt: skip


def test_a_twentieth_of_the_labels_is_spoilt() -> None:
    before, after = documents(), documents()
    planted = plant(after, seed=3)
    assert Counter(error["kind"] for error in planted) == {"dropped": 7, "swapped": 7, "moved": 6}
    kept = {(s, a["id"]): a for s in after for a in after[s]["annotations"]}
    changed: Counter[str] = Counter()
    for split, document in before.items():
        for annotation in document["annotations"]:
            now = kept.get((split, annotation["id"]))
            if now is None:
                changed["dropped"] += 1
            elif now["category_id"] != annotation["category_id"]:
                changed["swapped"] += 1
            elif now["bbox"] != annotation["bbox"]:
                changed["moved"] += 1
                x, y, width, height = now["bbox"]
                assert 0 <= x <= 640 - width and 0 <= y <= 480 - height
    assert changed == {"dropped": 7, "swapped": 7, "moved": 6}
    assert planted == plant(documents(), seed=3)


def test_a_planted_error_is_found_once_and_by_its_own_kind() -> None:
    box, moved = [0.0, 0, 100, 100], [30.0, 30, 130, 130]
    planted = [
        {"file": "a.jpg", "kind": "dropped", "box": box, "new_box": box},
        {"file": "b.jpg", "kind": "swapped", "box": box, "new_box": box},
        {"file": "c.jpg", "kind": "moved", "box": box, "new_box": moved},
    ]

    def record(file: str, label: list[float] | None, found: list[float] | None) -> dict[str, Any]:
        return {"file": file, "label": label and "x", "label_box": label, "found_box": found}

    records = [
        record("images/a.jpg", None, [5, 5, 105, 105]),
        record("images/a.jpg", None, box),  # again
        record("images/b.jpg", None, box),  # no label is missing there
        record("images/b.jpg", box, box),
        record("images/c.jpg", box, moved),  # another label than the moved one
        record("images/c.jpg", moved, box),
    ]
    assert count_found(records, planted) == ["dropped", None, None, "swapped", None, "moved"]


def test_intervals_of_halvings(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 300, (120, 2))
    boxes = np.concatenate((corner, corner + 60), axis=1)
    truth = np.column_stack((np.zeros(120), boxes, np.full(120, 3600.0), np.zeros(120)))
    found = np.column_stack((boxes + rng.normal(0, 6, (120, 4)), rng.random(120), np.zeros(120)))
    counts = {"found_count": np.full(40, 3), "truth_count": np.full(40, 3)}
    path = tmp_path / "kept.npz"
    np.savez(path, found=found.astype(np.float32), truth=truth.astype(np.float32), **counts)
    result = measure_halvings(Namespace(detections=path, halvings=10, resamples=40))
    first, second = result["map_of_the_two_detectors"]
    assert 1 > first > second > 0
    assert all(7 <= held <= 10 for held in result["intervals_that_hold"].values())
