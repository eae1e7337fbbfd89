"""Share of the images of a data set without a val split that validates."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import InputError
from .index import DatasetIndex


def take_share(index: DatasetIndex, split: str, share: float) -> DatasetIndex:
    """The images of an index that are for ``train``, or the ``share`` of them that are for ``val``.

    A hash of its path below the folder of the data set decides about an image, so that it stays where it is
    when others are added. Each split has at least one image.

    Raises:
        InputError: There are fewer than two images.
    """
    if len(index) < 2:
        raise InputError(f"{index.source}: has no val split and fewer than two images; add images")
    paths = index.paths()
    ranks = np.array([_hash(os.path.relpath(path, index.root)) for path in paths])
    is_val = (ranks < share) | (ranks == ranks.min())
    is_val &= ranks < ranks.max()
    kept = is_val if split == "val" else ~is_val
    rows = np.repeat(kept, np.diff(index.offsets))
    lengths = np.diff(index.path_offsets)[kept]
    names = {path for path, is_kept in zip(paths, kept.tolist(), strict=True) if is_kept}
    others = set(paths) - names
    return replace(
        index,
        split=split,
        path_bytes=b"".join(os.fsencode(path) for path in paths if path in names),
        path_offsets=np.cumsum([0, *lengths.tolist()], dtype=np.int64),
        image_ids=index.image_ids[kept],
        sizes=index.sizes[kept],
        offsets=np.cumsum([0, *np.diff(index.offsets)[kept].tolist()], dtype=np.int64),
        classes=index.classes[rows],
        boxes=index.boxes[rows],
        areas=index.areas[rows],
        crowd=index.crowd[rows],
        trainable=index.trainable[rows],
        findings=tuple(finding for finding in index.findings if finding.image not in others),
        layout=f"{index.layout}, no val split: {share:.0%} of the images validate (--data.val_share)",
    )


def _hash(path: str) -> float:
    """A number in 0..1 for a relative path, the same on all systems."""
    text = Path(path).as_posix().encode(errors="surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big") / 2**48
