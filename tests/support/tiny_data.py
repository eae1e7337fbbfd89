"""Small data sets written to disk for the tests of the data rooms."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

SHARED = Path(__file__).parents[3] / "shared" / "data"


def write_image(path: Path, height: int = 40, width: int = 60, seed: int = 0) -> None:
    """A smooth random picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), cv2.GaussianBlur(noise, (0, 0), 2))


def wait_for_a_tick(folder: Path) -> None:
    """Return when what is written in a folder's file system gets another time than all before it.

    Many file systems stamp files by a clock that moves every 4 to 10 ms only, and what is written twice
    in between looks as if it had been written once.
    """
    probe = folder / "tick"
    probe.touch()
    begun = probe.stat().st_mtime_ns
    while probe.stat().st_mtime_ns == begun:
        time.sleep(0.001)
        probe.touch()
    probe.unlink()


def image(i: int, name: str, height: int = 40, width: int = 60) -> dict[str, Any]:
    return {"id": i, "file_name": name, "height": height, "width": width}


def annotation(i: int, image_id: int, category: int, bbox: list[float], **more: Any) -> dict[str, Any]:
    return {"id": i, "image_id": image_id, "category_id": category, "bbox": bbox,
            "area": bbox[2] * bbox[3], "iscrowd": 0, **more}  # fmt: skip


def coco_document() -> dict[str, Any]:
    """Two images against the order of their names, ids with holes, each kind of odd annotation."""
    return {
        "images": [image(7, "b.png"), image(3, "a.png", 50, 30), image(9, "c.png")],
        "categories": [{"id": 90, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            annotation(100, 7, 90, [10, 10, 20, 20]),
            annotation(101, 3, 5, [0, 0, 10, 30], area=123.0, segmentation=[[0, 0, 10, 0, 10, 30]]),
            annotation(102, 7, 5, [50, 30, 30, 30]),  # reaches out to the right and the bottom
            annotation(103, 7, 90, [10, 10, 20, 20]),  # repeats 100
            annotation(104, 7, 5, [70, 5, 10, 10]),  # outside
            annotation(
                105, 7, 5, [0, 0, 60, 40], iscrowd=1, segmentation={"counts": [0, 2400], "size": [40, 60]}
            ),
        ],
    }


def write_coco(
    root: Path, document: dict[str, Any] | str, split: str = "train", name: str | None = None
) -> Path:
    """Write a COCO JSON and the images it names, where they can be found; return the JSON."""
    path = root / "annotations" / f"instances_{name or split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    if isinstance(document, dict):
        for entry in document.get("images", []):
            if {"file_name", "height", "width"} <= entry.keys():
                folder = root / "images" / split
                write_image(
                    folder / entry["file_name"], entry["height"], entry["width"], seed=entry.get("id", 0)
                )
    return path


def write_yolo(
    root: Path, labels: dict[str, str | None], names: Any = ("cat", "dog"), split: str = "train", **more: Any
) -> Path:
    """Write images, label files (None: no file) and a data.yaml with train, val and test; return the YAML."""
    for n, (stem, text) in enumerate(labels.items()):
        write_image(root / "images" / split / f"{stem}.png", seed=n)
        if text is not None:
            path = root / "labels" / split / f"{stem}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    names = list(names) if isinstance(names, tuple) else names
    content = {"train": "images/train", "val": "images/val", "names": names, **more}
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    return root / "data.yaml"
