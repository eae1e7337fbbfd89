"""A cleaned copy of a data set's annotations: what is wrong is left out, clipped or written once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import InputError
from ..annotations.findings import EVERY_IMAGE, Finding
from ..annotations.index import DatasetIndex
from ..annotations.source import Split
from ..annotations.write import write_coco, write_yolo


def write_fixed(indices: Mapping[Split, DatasetIndex], output: Path, broken: Sequence[Finding] = ()) -> None:
    """Write checked splits without images of errors, repeated labels and boxes without area; clip the others.

    A YOLO data set stays YOLO, any other becomes COCO; see ``annotations.write``. The images are hard links
    to the originals, or copies on another disk.

    Args:
        indices: The splits, with all their findings.
        output: New folder.
        broken: Errors about whole splits.

    Raises:
        InputError: An error concerns a whole split, or nothing is left of one.
    """
    found = [*broken, *(finding for index in indices.values() for finding in index.findings)]
    for finding in found:
        if finding in broken or finding.image == EVERY_IMAGE:
            raise InputError(f"{finding}; that is yours to decide, so --fix has written nothing")
    cleaned: dict[str, DatasetIndex] = {split: _clean(index) for split, index in indices.items()}
    for split, index in cleaned.items():
        if not len(index):
            raise InputError(f"{index.source}: no image of the {split} split is without errors; correct some")
    if all(index.layout.startswith("YOLO") for index in cleaned.values()):
        write_yolo(cleaned, output, copies=False)
    else:
        write_coco(cleaned, output, copies=False)


def _clean(index: DatasetIndex) -> DatasetIndex:
    """The rows that are trained on, clipped to their images, and crowds."""
    kept = index.with_labels(index.trainable | index.crowd)
    limits = kept.sizes[kept.image_of_row][:, [1, 0, 1, 0]].astype(np.float32)
    return replace(kept, boxes=np.where(kept.crowd[:, None], kept.boxes, kept.boxes.clip(0, limits)))
