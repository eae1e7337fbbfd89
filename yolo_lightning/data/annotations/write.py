"""Data sets written as COCO or YOLO, from their indices."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ...errors import InputError
from ..images.decode import header_size
from .index import IMAGE_SUFFIXES, DatasetIndex, find_cut_boxes
from .yolo_labels import label_path


def write_coco(indices: Mapping[str, DatasetIndex], output: Path, copies: bool) -> None:
    """Write ``annotations/instances_<split>.json`` and ``images/<split>/``; the JSONs appear last, together.

    Boxes, areas, crowds, and the ids of images and categories are those of the indices.
    """
    unfinished = output / "annotations.unfinished"
    unfinished.mkdir(parents=True)
    for split, index in indices.items():
        names = _names(index)
        _put_images(index, names, output / "images" / split, copies)
        (unfinished / f"instances_{split}.json").write_text(json.dumps(_document(index, names)))
    unfinished.rename(output / "annotations")


def write_yolo(indices: Mapping[str, DatasetIndex], output: Path, copies: bool) -> dict[str, dict[str, int]]:
    """Write ``images/<split>/``, ``labels/<split>/`` and, at the end, ``data.yaml``.

    Returns:
        For each split what YOLO cannot hold, and how many labels that concerns.

    Raises:
        InputError: YOLO cannot hold an image; nothing has been written.
    """
    class_names = next(iter(indices.values())).class_names
    for index in indices.values():
        _refuse_for_yolo(index, class_names)
    cut = {}
    for split, index in indices.items():
        names = _without_twins(_names(index))
        paths = _put_images(index, names, output / "images" / split, copies)
        sizes = index.sizes[index.image_of_row]
        no_area, clipped = find_cut_boxes(index.boxes, sizes, index.crowd)
        counts = {
            "crowds, left out": int(index.crowd.sum()),
            "boxes without area inside the image, left out": int(no_area.sum()),
            "boxes clipped to the image": int(clipped.sum()),
        }
        cut[split] = {what: count for what, count in counts.items() if count}
        wh = sizes[:, [1, 0, 1, 0]].astype(np.float64)  # (T, 4)
        boxes = index.boxes.astype(np.float64).clip(0, wh) / wh
        centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        rows = np.concatenate((centres, sides), axis=1)
        kept = ~(index.crowd | no_area)
        for i, path in enumerate(paths):
            own = index.rows(i)
            labels = zip(index.classes[own][kept[own]].tolist(), rows[own][kept[own]].tolist(), strict=True)
            text = "".join(f"{label} {' '.join(f'{v:.9g}' for v in row)}\n" for label, row in labels)
            target = Path(label_path(str(path)))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    content = {**{split: f"images/{split}" for split in indices}, "names": dict(enumerate(class_names))}
    (output / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")
    return cut


def _document(index: DatasetIndex, names: list[str]) -> dict[str, Any]:
    images = zip(index.image_ids.tolist(), names, index.sizes.tolist(), strict=True)
    owners = index.image_ids[index.image_of_row].tolist()
    category = index.category_ids[index.classes].tolist()
    columns = zip(owners, category, index.boxes, index.areas, index.crowd.tolist(), strict=True)
    annotations = []
    for number, (image, category_id, box, area, crowd) in enumerate(columns, start=1):
        x1, y1, x2, y2 = (float(str(value)) for value in box)  # 10.1, not 10.100000381469727
        annotations.append({
            "id": number, "image_id": image, "category_id": category_id, "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": float(str(area)), "iscrowd": int(crowd),
        })  # fmt: skip
    classes = zip(index.category_ids.tolist(), index.class_names, strict=True)
    return {
        "images": [{"id": n, "file_name": name, "height": h, "width": w} for n, name, (h, w) in images],
        "categories": [{"id": n, "name": name} for n, name in classes],
        "annotations": annotations,
    }


def _names(index: DatasetIndex) -> list[str]:
    """Paths of the images below the deepest folder that has all; hidden ones would be passed over."""
    paths = index.paths()
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    parts = (Path(os.path.relpath(path, folder)).parts for path in paths)
    return ["/".join(f"_{part}" if part[0] in ".@" else part for part in own) for own in parts]


def _without_twins(names: list[str]) -> list[str]:
    """Names that differ without their suffixes, too: a.jpg and a.png would share a label file."""
    used: set[str] = set()
    found = []
    for name in names:
        stem, suffix = os.path.splitext(name)
        while stem in used:
            stem += f"_{suffix[1:]}"
        used.add(stem)
        found.append(stem + suffix)
    return found


def _put_images(index: DatasetIndex, names: list[str], folder: Path, copies: bool) -> list[Path]:
    """Link the images into a folder, or copy them where that is impossible; return their new paths."""
    targets = [folder / name for name in names]
    for source, target in zip(index.paths(), targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        source = os.path.realpath(source)
        if not copies:
            try:
                os.link(source, target)
                continue
            except OSError:  # another disk, or a file system without links
                pass
        shutil.copyfile(source, target)
    return targets


def _refuse_for_yolo(index: DatasetIndex, class_names: tuple[str, ...]) -> None:
    if index.class_names != class_names:
        raise InputError(f"{index.source}: its classes are not those of the other splits; write --to coco")
    for path, size in zip(index.paths(), index.sizes.tolist(), strict=True):
        if os.path.splitext(path)[1].lower() not in IMAGE_SUFFIXES:
            raise InputError(f"{path}: YOLO takes images by their suffix; rename it, or write --to coco")
        if header_size(path) != tuple(size):
            raise InputError(
                f"{path}: is annotated as it is stored, YOLO needs it as it is displayed (EXIF orientation); "
                "write --to coco"
            )
