"""The page of an audit: suspicious labels with their pictures."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from ...data.annotations.index import DatasetIndex
from ...data.images.decode import read_rgb
from ...evaluation.suspicions import KINDS
from ..pictures.draw_boxes import draw_boxes, encode
from ..pictures.views import ImageView, surroundings
from .charts import Chart, data_uri
from .page import render

MOST_PICTURES = 200
_SIDE_PX = 320
_BLUE, _ORANGE = (37, 99, 217), (217, 108, 6)


def words(record: dict[str, Any]) -> str:
    """Label and detection of a record of ``cli.audit.judge``, in words."""
    label = "no label" if record["label"] is None else f"labelled {record['label']}"
    found = "nothing found" if record["found"] is None else f"found {record['found']}"
    return f"{label}, {found}" + (f" {record['confidence']:.2f}" if record["found"] is not None else "")


def audit_page(index: DatasetIndex, records: list[dict[str, Any]], headline: str) -> str:
    """The audit as HTML in one file.

    Args:
        index: the images.
        records: suspicious labels of ``cli.audit.judge``, the worst first.
        headline: the mAP in words.
    """
    cards = [
        Chart(
            f"{record['rank']}. {record['kind']}",
            _picture(index, record),
            f"{record['file']}: {words(record)}",
        )
        for record in records[:MOST_PICTURES]
    ]
    counts = Counter(record["kind"] for record in records)
    kinds = [(kind, counts[kind]) for kind in KINDS]
    return render("audit.html.j2", root=index.root, headline=headline, kinds=kinds, cards=cards)


def _picture(index: DatasetIndex, record: dict[str, Any]) -> str:
    """The surroundings of a suspicious label, as a data URI."""
    size = index.sizes[record["image"]].tolist()
    pixels = read_rgb(index.path(record["image"]), size)
    both = ((record["label_box"], _BLUE), (record["found_box"], _ORANGE))
    boxes = np.array([box for box, _ in both if box], np.float32)
    around = np.concatenate((boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)))
    left, top, right, bottom = surroundings(around, size).round().astype(int).tolist()
    part = np.ascontiguousarray(pixels[top:bottom, left:right])
    view = ImageView(part, np.array([1, 1, -left, -top], np.float32)).fit(_SIDE_PX)
    colours = [colour for box, colour in both if box]
    drawn = draw_boxes(view.image, view.place(boxes), [""] * len(boxes), colours, line_px=2)
    return data_uri(encode(drawn, ".jpg"), "image/jpeg")
