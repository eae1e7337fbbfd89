"""COCO-like JPEGs with labels, made once on all cores: YOLO and COCO layout of the same."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import yaml

from ..pictures import encode_jpeg, make_picture

CLASSES = 80
MOST_LABELS = 93
"""As many as the fullest picture of COCO's training split has; it decides the size of label tensors."""
LABEL_CAPACITY = 128
"""Label rows of a batch that our loader makes of such pictures."""
_MEAN_LABELS = 7
_SHAPES = ((3, 4), (3, 4), (2, 3), (4, 3))
_GRAIN = 6.0
"""Standard deviation of the noise in grey levels of 255."""

Row = tuple[int, int, int, int, int]
"""Class, left, top, width and height in px."""


@dataclass(frozen=True)
class Wanted:
    """What the pictures are to be like."""

    images: int
    long_side: int
    """px."""
    mean_bytes: int
    val_images: int = 4


def make_pictures(root: Path, wanted: Wanted) -> Path:
    """The folder of the data set, made if it is not there yet; it appears when it is complete."""
    if root.exists():
        return root
    part = root.with_name(f".{root.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for split, count in (("train", wanted.images), ("val", wanted.val_images)):
            for folder in ("annotations", f"images/{split}", f"labels/{split}"):
                (part / folder).mkdir(parents=True, exist_ok=True)
            write = partial(_write_picture, part, split, wanted)
            shapes_and_rows = list(pool.map(write, range(count), chunksize=max(1, count // 256)))
            _write_annotations(part, split, shapes_and_rows)
    names = {number: f"class {number}" for number in range(CLASSES)}
    content = {"path": str(root), "train": "images/train", "val": "images/val", "names": names}
    (part / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    part.rename(root)
    return root


def _write_picture(root: Path, split: str, wanted: Wanted, number: int) -> tuple[int, int, list[Row]]:
    """Write a picture, which depends on split and number alone, and its labels; return what it shows."""
    cv2.setNumThreads(1)  # there is a process a core
    generator = np.random.default_rng((number, len(split)))
    a, b = _SHAPES[number % len(_SHAPES)]
    height, width = (wanted.long_side * side // max(a, b) for side in (a, b))
    target = int(wanted.mean_bytes * generator.uniform(0.5, 1.5))
    jpeg = encode_jpeg(make_picture(height, width, generator, _GRAIN), target)
    (root / "images" / split / f"{number:012d}.jpg").write_bytes(jpeg)
    labels = MOST_LABELS if number == 0 else min(int(generator.geometric(1 / _MEAN_LABELS)), MOST_LABELS)
    rows = [_random_row(height, width, generator) for _ in range(labels)]
    lines = [
        f"{c} {(x + w / 2) / width:.6f} {(y + h / 2) / height:.6f} {w / width:.6f} {h / height:.6f}\n"
        for c, x, y, w, h in rows
    ]
    (root / "labels" / split / f"{number:012d}.txt").write_text("".join(lines))
    return height, width, rows


def _random_row(height: int, width: int, generator: np.random.Generator) -> Row:
    w = int(generator.integers(width // 20 + 1, width // 3))
    h = int(generator.integers(height // 20 + 1, height // 3))
    left, top = int(generator.integers(width - w)), int(generator.integers(height - h))
    return int(generator.integers(CLASSES)), left, top, w, h


def _write_annotations(root: Path, split: str, found: list[tuple[int, int, list[Row]]]) -> None:
    """The same labels as COCO JSON."""
    images = [
        {"id": i + 1, "file_name": f"{i:012d}.jpg", "height": height, "width": width}
        for i, (height, width, _) in enumerate(found)
    ]
    rows = [(i, row) for i, (_, _, rows) in enumerate(found) for row in rows]
    annotations = [
        {
            "id": number,
            "image_id": i + 1,
            "category_id": category + 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for number, (i, (category, *box)) in enumerate(rows, 1)
    ]
    categories = [{"id": number + 1, "name": f"class {number}"} for number in range(CLASSES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
