"""Data sets with planted faults, for the tests of what is found in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.tiny_data import annotation, image, write_image

Coco = dict[str, Any]


def _damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def _change(**values: Any) -> Callable[[Coco, int, Path], None]:
    return lambda document, n, _: document["annotations"][n].update(values)


def _lose_size(document: Coco, n: int, _: Path) -> None:
    del document["images"][n]["width"]


def _lose_box(document: Coco, n: int, _: Path) -> None:
    del document["annotations"][n]["bbox"]


def _turn(document: Coco, n: int, _: Path) -> None:
    document["images"][n].update(width=48, height=64)


COCO_FAULTS: dict[str, tuple[str, Callable[[Coco, int, Path], None]]] = {
    "three numbers": ("wrong annotation", _change(bbox=[1, 2, 3])),
    "nan": ("wrong annotation", _change(bbox=[1, 2, 3, float("nan")])),
    "no outline": ("wrong annotation", _lose_box),
    "unknown category": ("unknown category_id", _change(category_id=9)),
    "no width": ("wrong image entry", _lose_size),
    "turned": ("image of another size", _turn),
    "not an image": ("unreadable image", lambda document, n, path: _damage(path)),
    "gone": ("missing image", lambda document, n, path: path.unlink()),
}
"""Kind of the finding, and what is done to image ``n``, the file ``path``."""

YOLO_FAULTS: dict[str, tuple[str, str | None]] = {
    "four numbers": ("wrong count of numbers", "0 0.5 0.5 0.2"),
    "text": ("no numbers", "disc 0.5 0.5 0.2 0.2"),
    "nan": ("no numbers", "0 0.5 nan 0.2 0.2"),
    "decimal commas": ("no numbers", "0 0,5 0,5 0,2 0,2"),
    "px": ("not in 0..1", "0 32 24 10 10"),
    "negative": ("negative size", "0 0.5 0.5 -0.1 0.2"),
    "unknown class": ("unknown class", "7 0.5 0.5 0.2 0.2"),
    "latin-1": ("unreadable labels", "0\xa00.5 0.5 0.2 0.2"),
    "not an image": ("unreadable image", None),
}
"""Kind of the finding, and the contents of the label file; None damages the image."""


def plant_in_coco(
    root: Path, count: int, faults: Mapping[str, Any] = COCO_FAULTS, suffix: str = ".png"
) -> dict[str, str]:
    """Train and val of ``count`` images, one with each fault; the kinds of the findings by image."""
    expected = {}
    for split in ("train", "val"):
        names = [f"{split}{n}{suffix}" for n in range(count)]
        paths = [root / "images" / split / name for name in names]
        for n, path in enumerate(paths):
            write_image(path, 48, 64, seed=n + 1000 * (split == "val"))
        document = {
            "images": [image(n, name, 48, 64) for n, name in enumerate(names)],
            "categories": [{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}],
            "annotations": [annotation(n, n, n % 2 + 1, [10, 10, 20, 20]) for n in range(count)],
        }
        for n, (kind, plant) in enumerate(faults.values()):
            plant(document, 3 * n, paths[3 * n])
            expected[str(paths[3 * n])] = kind
        path = root / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))
    return expected


def plant_in_yolo(
    root: Path, count: int, faults: Mapping[str, Any] = YOLO_FAULTS, suffix: str = ".png"
) -> dict[str, str]:
    """The same with label files."""
    expected = {}
    for split in ("train", "val"):
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        kinds = list(faults.values())
        for n in range(count):
            path = root / "images" / split / f"{split}{n}{suffix}"
            write_image(path, 48, 64, seed=n + 1000 * (split == "val"))
            text: str | None = f"{n % 2} 0.5 0.5 0.2 0.2"
            if n % 3 == 0 and n // 3 < len(kinds):
                expected[str(path)], text = kinds[n // 3]
            if text is None:
                _damage(path)
            (root / "labels" / split / f"{path.stem}.txt").write_bytes((text or "").encode("latin-1"))
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [disc, square]\n")
    return expected
