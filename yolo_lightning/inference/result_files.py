"""Detections as files of data: COCO JSON, CSV and YOLO txt."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from ..runs.record import plain_cell
from ..system.files import whole_file, write_whole

_CATEGORIES = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]  # by COCO's category id
COCO_IDS = [i for i, name in enumerate(_CATEGORIES) if name not in ("__background__", "N/A")]
"""Category ids of COCO's 80 classes: 1..90 without the ten ids that COCO never annotates."""
COCO_NAMES = [_CATEGORIES[i] for i in COCO_IDS]


class Found(NamedTuple):
    """Detections of an image or of a frame of a video or stream."""

    image_id: int
    file_name: str
    frame: int | None  # number of the frame in its video or stream
    table: npt.NDArray[np.float32]  # (n, 6) x1, y1, x2, y2 in px, score, class


def to_coco(
    found: Iterable[Found], category_ids: Sequence[int], class_names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Convert detections to the entries of a COCO results list; ids and names are by class."""
    for image_id, file_name, frame, table in found:
        for x1, y1, x2, y2, score, label in table.tolist():
            yield {
                "image_id": image_id,
                "file_name": file_name,
                **({} if frame is None else {"frame": frame}),
                "category_id": category_ids[int(label)],
                "name": class_names[int(label)],
                "bbox": [round(side, 2) for side in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(score, 5),
            }


def write_json(path: Path, results: Iterable[Mapping[str, Any]]) -> None:
    """Write a list as JSON, one object a line; readers see the old file or the whole new one."""
    with whole_file(path) as temporary, temporary.open("x", encoding="utf-8", errors="replace") as file:
        before = "[\n"
        for result in results:
            file.write(before + json.dumps(result, ensure_ascii=False))
            before = ",\n"
        file.write("[]\n" if before == "[\n" else "\n]\n")


def write_csv(path: Path, found: Iterable[Found], class_names: Sequence[str]) -> None:
    """Write a table with a detection a line; readers see the old file or the whole new one."""
    with whole_file(path) as temporary, temporary.open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file_name", "frame", "class", "name", "score", "x1", "y1", "x2", "y2"])
        for _, file_name, frame, table in found:
            for *box, score, label in table.tolist():
                name = plain_cell(class_names[int(label)])
                sides = [round(side, 2) for side in box]
                writer.writerow([plain_cell(file_name), frame, int(label), name, round(score, 5), *sides])


def write_txt(path: Path, table: npt.NDArray[np.float32], size: tuple[int, int], with_scores: bool) -> None:
    """Write the label file of an image: class, and centre and size of the box as shares of the image.

    Args:
        path: the file.
        table: (n, 6) x1, y1, x2, y2 in px, score, class.
        size: height and width of the image in px.
        with_scores: put the score behind each box.
    """
    height, width = size
    lines = []
    for x1, y1, x2, y2, score, label in table.tolist():
        sides = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        values = (*sides, score) if with_scores else sides
        lines.append(f"{int(label)} " + " ".join(f"{value:.6g}" for value in values) + "\n")
    write_whole(path, "".join(lines))
