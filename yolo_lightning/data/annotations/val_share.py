"""Share of the images of a data set without a val split that validates."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import InputError
from .findings import EVERY_IMAGE, refuse_errors
from .index import BoolArray, DatasetIndex


def take_share(index: DatasetIndex, split: str, share: float) -> DatasetIndex:
    """The images of an index that are for ``train``, or the ``share`` of them that are for ``val``.

    A hash of its path below the folder of the data set decides about an image, so that it stays where it is
    when others are added. Each split has at least one image.

    Raises:
        InputError: There are fewer than two images.
    """
    if len(index) < 2:
        refuse_errors(index.findings)
        raise InputError(f"{index.source}: has no val split and fewer than two images; add images")
    hashes = np.array([path_hash(path, index.root) for path in index.paths()])
    limit = min(max(share, np.nextafter(hashes.min(), 1)), hashes.max())  # at least one of each
    is_val = split == "val"
    taken = take_images(
        index, (hashes < limit) == is_val, lambda path: (path_hash(path, index.root) < limit) == is_val
    )
    layout = f"{index.layout}, no val split: {share:.0%} of the images validate (--data.val_share)"
    return replace(taken, split=split, layout=layout)


def take_images(index: DatasetIndex, kept: BoolArray, is_kept: Callable[[str], bool]) -> DatasetIndex:
    """The images of a mask (I,), and the findings about paths that are kept or about no single image."""
    findings = [f for f in index.findings if f.image in ("", EVERY_IMAGE) or is_kept(f.image)]
    return replace(index.subset(np.flatnonzero(kept)), findings=tuple(findings))


def path_hash(path: str, root: Path, purpose: str = "") -> float:
    """A number in 0..1 for a path below ``root``, the same on all systems; another for each purpose."""
    below = path.removeprefix(os.path.join(root, "")).replace(os.sep, "/")
    return int.from_bytes(hashlib.sha256(os.fsencode(purpose + below)).digest()[:6], "big") / 2**48
