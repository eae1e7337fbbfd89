from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from yolo_lightning.inference.result_files import Found, to_coco, write_csv, write_json, write_txt


def test_an_empty_list_is_json(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "predictions.json", [])
    assert json.loads((tmp_path / "new" / "predictions.json").read_text()) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    write_json(path, [{"score": 1}])
    with pytest.raises(TypeError):
        write_json(path, [{"score": 0.5}, {"score": object()}])
    assert json.loads(path.read_text()) == [{"score": 1}]
    write_json(path, [{"score": 0.5}])
    assert json.loads(path.read_text()) == [{"score": 0.5}]
    assert list(tmp_path.iterdir()) == [path]


FOUND = [
    Found(7, "a.jpg", None, np.array([[10, 20, 40, 60, 0.875, 1], [5, 6, 9, 30, 0.25, 0]], np.float32)),
    Found(8, "clip.mp4", 3, np.array([[0, 0, 2, 2, 0.5, 0]], np.float32)),
]


def test_a_frame_is_named_in_the_coco_list() -> None:
    *of_image, of_frame = to_coco(FOUND, [3, 9], ["=cell", "b"])
    assert [one["category_id"] for one in of_image] == [9, 3] and "frame" not in of_image[0]
    assert of_frame == {
        "image_id": 8, "file_name": "clip.mp4", "frame": 3, "category_id": 3, "name": "=cell",
        "bbox": [0, 0, 2, 2], "score": 0.5,
    }  # fmt: skip


def test_a_table_has_a_detection_a_line(tmp_path: Path) -> None:
    write_csv(tmp_path / "predictions.csv", FOUND, ["=cell", "b"])
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"] for row in rows] == ["a.jpg", "a.jpg", "clip.mp4"]
    assert [row["frame"] for row in rows] == ["", "", "3"]
    assert rows[0]["score"] == "0.875" and [rows[0][side] for side in ("x1", "y1", "x2", "y2")] == [
        "10.0", "20.0", "40.0", "60.0",
    ]  # fmt: skip
    assert rows[1]["name"] == "'=cell"  # no formula for a spreadsheet


@pytest.mark.parametrize("with_scores", [False, True])
def test_a_label_file_has_shares_of_the_image(tmp_path: Path, with_scores: bool) -> None:
    write_txt(tmp_path / "labels/a.txt", FOUND[0].table, (80, 100), with_scores)
    lines = [line.split() for line in (tmp_path / "labels/a.txt").read_text().splitlines()]
    assert [line[0] for line in lines] == ["1", "0"]
    first = [0.25, 0.5, 0.3, 0.5, *([0.875] if with_scores else [])]
    assert [float(value) for value in lines[0][1:]] == pytest.approx(first)
