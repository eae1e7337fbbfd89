"""What the check finds in the labels of a split, from its index alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..annotations.findings import EVERY_IMAGE, Finding
from ..annotations.index import DatasetIndex
from ..image_size import Size, as_option
from ..letterbox import letterbox_ratios

_LEAST_PX = 2.0  # a smaller box is less than a quarter of a cell of the finest map
_LEAST_BOXES = 3  # for a statement about a whole split
_SHARE = 0.99  # of the boxes that such a statement holds for
_SHARE_OUT = 0.5  # of the boxes that reach out of their images, if corners are read as sizes


def check_labels(index: DatasetIndex, image_size: Size) -> list[Finding]:
    """Findings about a split: units and forms of its boxes, small boxes, images without labels."""
    counts = np.diff(index.offsets)
    empty = int((counts == 0).sum())
    found = [*_wrong_form(index), *_small_boxes(index, image_size)]
    if empty:
        what = f"{empty:,} of {len(index):,} images have no labels, and count as background"
        remedy = "add labels if they show objects"
        found.append(Finding("no labels", str(index.source), what, remedy, is_note=True))
    return found


def _wrong_form(index: DatasetIndex) -> Iterator[Finding]:
    """At most one error: coordinates of another unit, or two corners where a size belongs."""
    if not len(index.boxes):
        return
    sizes = index.sizes[index.image_of_row][:, ::-1]  # (T, 2), width and height
    corner, far = index.boxes[:, :2], index.boxes[:, 2:]
    source, extent = str(index.source), far - corner
    is_yolo = index.layout.startswith(("YOLO", "Darknet"))
    if not is_yolo and far.max() <= 1 + 1e-6 and extent.min() > 0 and sizes.min() > 16:
        what = f"all {len(far):,} boxes lie within 0..1, but this format has px"
        remedy = "multiply horizontal numbers by the image's width, vertical ones by its height"
        yield Finding("boxes in 0..1", source, what, remedy, EVERY_IMAGE, is_error=True)
        return
    if len(far) < _LEAST_BOXES or not (is_yolo or index.layout.startswith("COCO")):
        return
    first = (corner + far) / 2 if is_yolo else corner  # the first two numbers of each label, in px
    is_out = ((corner < -1) | (far > sizes + 1)).any(axis=1)
    are_corners = ((extent > first) & (extent <= sizes + 1)).all(axis=1)
    if is_out.mean() >= _SHARE_OUT and are_corners.mean() >= _SHARE:
        expected = "a centre and a size" if is_yolo else "a corner and a size"
        what = (
            f"the boxes seem to be two corners, x1 y1 x2 y2, where {expected} belong: "
            f"{is_out.sum():,} of {len(far):,} reach out of their images, and none would as corners"
        )
        yield Finding("corners as sizes", source, what, f"write {expected}", EVERY_IMAGE, is_error=True)


def _small_boxes(index: DatasetIndex, image_size: Size) -> Iterator[Finding]:
    image = index.image_of_row
    scale = letterbox_ratios(index.sizes, image_size)[image]
    extent = (index.boxes[:, 2:] - index.boxes[:, :2]) * scale[:, None]
    for row in np.flatnonzero(index.trainable & (extent.min(axis=1, initial=np.inf) < _LEAST_PX)).tolist():
        path, (x1, y1, x2, y2) = str(index.path(int(image[row]))), index.boxes[row].tolist()
        width, height = extent[row].tolist()
        what = (
            f"the box of '{index.class_names[index.classes[row]]}' at x {x1:.0f} to {x2:.0f}, y {y1:.0f} to "
            f"{y2:.0f} is {width:.1f} x {height:.1f} px at image size {as_option(image_size)}"
        )
        yield Finding("tiny box", path, what, "set a larger --data.image_size, or remove the box", path)
