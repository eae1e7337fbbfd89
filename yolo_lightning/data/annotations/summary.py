"""Summary of a split for the screen: counts, box sizes and problems of its annotations."""

from __future__ import annotations

import numpy as np

from ...system.text import printable
from .findings import count_images, list_findings
from .index import SHOWN, DatasetIndex, find_cut_boxes

SMALL_AREA_PX2 = 32.0**2
LARGE_AREA_PX2 = 96.0**2
"""COCO's bounds: small below 32 x 32 px, large from 96 x 96 px, medium between."""


def summarise(index: DatasetIndex, title: str = "") -> str:
    """A few lines for the screen; long lists are cut and their length is stated."""
    counts = np.bincount(index.classes, minlength=len(index.class_names)).tolist()
    ranked = sorted(zip(index.class_names, counts, strict=True), key=lambda item: -item[1])
    classes = [f"{name} {count:,}" for name, count in ranked]
    if len(classes) > 2 * SHOWN:
        classes = [*classes[:SHOWN], f"... {len(classes) - 2 * SHOWN} more ...", *classes[-SHOWN:]]
    labels = np.diff(index.offsets)  # (I,)
    small, large = (index.areas < SMALL_AREA_PX2).sum(), (index.areas >= LARGE_AREA_PX2).sum()
    sides = np.sqrt(np.maximum(index.areas, 0)) if len(index.areas) else np.zeros(1)
    lines = [
        f"{title + ': ' if title else ''}{len(index):,} images ({(labels == 0).sum():,} without labels), "
        f"{labels.sum():,} labels of {len(counts)} classes{'; read from the cache' * index.from_cache}",
        f"  labels by class: {', '.join(classes)}",
        f"  box sizes: {small:,} small, {len(index.areas) - small - large:,} medium, {large:,} large; "
        f"side {sides.min():.0f} to {sides.max():.0f} px, median {np.median(sides):.0f} px",
    ]
    no_area, clipped = find_cut_boxes(index.boxes, index.sizes[index.image_of_row], index.crowd)
    odd = {
        "clipped to the image": clipped,
        "without area, not trained on": no_area,
        "duplicate, not trained on": ~(index.trainable | no_area | index.crowd),
        "crowd, not trained on": index.crowd,
    }
    if any(rows.any() for rows in odd.values()):
        lines.append("  labels " + "; ".join(f"{word}: {n.sum():,}" for word, n in odd.items() if n.any()))
    errors = [finding for finding in index.findings if finding.is_error]
    others = [finding for finding in index.findings if not finding.is_error]
    if count_images(errors):
        lines.append(f"  images with errors: {count_images(errors):,}")
    lines += [f"  {line}" for line in (*list_findings(errors), *list_findings(others, SHOWN))]
    return "\n".join(map(printable, lines))
