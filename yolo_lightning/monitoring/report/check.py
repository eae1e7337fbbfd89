"""The page of ``yolo-lightning check``: findings by kind, with pictures of the images that they concern."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from ...data.annotations.findings import FEW, Finding, by_kind
from ...data.annotations.index import DatasetIndex
from ...data.annotations.source import Split
from ...data.images.decode import header_size, read_rgb, refuse_large
from ...errors import InputError
from ..pictures.draw_boxes import class_colour, draw_boxes, encode, legible
from .charts import Chart, data_uri
from .page import render

_PICTURES = 8  # images of a kind
_SIDE = 320  # px


class _Group(NamedTuple):
    kind: str
    size: int
    lines: Sequence[str]
    more: int
    pictures: Sequence[Chart]


def check_page(
    name: str, indices: Mapping[Split, DatasetIndex], findings: Sequence[Finding], max_megapixels: int
) -> str:
    """The findings of a data set as HTML; images of more than ``max_megapixels`` are not shown."""
    places = {path: (index, i) for index in indices.values() for i, path in enumerate(index.paths())}
    groups: dict[str, list[_Group]] = {"error": [], "warning": [], "note": []}
    for (severity, kind), group in by_kind(findings).items():
        paths = list(dict.fromkeys(p for f in group for p in (f.image, f.beside) if p))[:_PICTURES]
        shown = [chart for path in paths for chart in _thumbnail(path, places.get(path), max_megapixels)]
        lines = [str(finding) for finding in group[:FEW]]
        groups[severity].append(_Group(kind, len(group), lines, len(group) - len(lines), shown))
    counts = Counter(finding.severity for finding in findings)
    splits = [
        f"{split}: {len(index):,} images, {len(index.boxes):,} labels" for split, index in indices.items()
    ]
    return render("check.html.j2", name=name, splits=splits, groups=groups, counts=counts)


def _thumbnail(path: str, place: tuple[DatasetIndex, int] | None, max_megapixels: int) -> list[Chart]:
    """A small picture of an image, with its boxes if it is in an index; none if it cannot be decoded."""
    try:
        size = header_size(path)
        refuse_large(path, size, max_megapixels)
        image = read_rgb(path, size if place is None else tuple(place[0].sizes[place[1]].tolist()))
    except InputError:
        return []
    scale = _SIDE / max(image.shape[:2])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.uint8)
    if place is not None:
        index, i = place
        rows = index.rows(i)
        classes, names = index.classes[rows].tolist(), legible(index.class_names)
        captions, colours = [names[label] for label in classes], [class_colour(label) for label in classes]
        small = draw_boxes(small, index.boxes[rows] * np.float32(scale), captions, colours)
    return [Chart(os.path.basename(path), data_uri(encode(small, ".jpg"), "image/jpeg"), path)]
