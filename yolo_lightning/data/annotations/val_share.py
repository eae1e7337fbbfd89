"""Share of the images of a data set without a val split that validates."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import InputError
from .findings import EVERY_IMAGE, Finding, refuse_errors
from .index import DatasetIndex


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
    paths = index.paths()
    hashes = np.array([path_hash(path, index.root) for path in paths])
    limit = min(max(share, np.nextafter(hashes.min(), 1)), hashes.max())  # at least one of each
    kept = (hashes < limit) == (split == "val")

    def is_kept(finding: Finding) -> bool:
        image = finding.image
        return image in ("", EVERY_IMAGE) or (path_hash(image, index.root) < limit) == (split == "val")

    return replace(
        index.subset(np.flatnonzero(kept)),
        split=split,
        findings=tuple(filter(is_kept, index.findings)),
        layout=f"{index.layout}, no val split: {share:.0%} of the images validate (--data.val_share)",
    )


def path_hash(path: str, root: Path, purpose: str = "") -> float:
    """A number in 0..1 for a path below ``root``, the same on all systems; another for each purpose."""
    below = path.removeprefix(os.path.join(root, "")).replace(os.sep, "/")
    return int.from_bytes(hashlib.sha256(os.fsencode(purpose + below)).digest()[:6], "big") / 2**48
