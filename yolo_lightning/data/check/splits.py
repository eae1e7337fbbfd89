"""The check of all splits of a data set: images, labels, and images that are in it twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..annotations.findings import Finding
from ..annotations.index import DatasetIndex
from ..annotations.source import Split
from ..image_size import Size
from .images import Facts, examine_images
from .labels import check_labels
from .look_alikes import find_look_alikes

FIT_SECONDS = 20.0
"""Stated cost of decoding a split, see ``images.estimate_seconds``, that the start of a training may take."""


def check_splits(
    indices: Mapping[Split, DatasetIndex],
    image_size: Size,
    seconds: float,
    keep: bool = True,
    progress: Callable[[int], None] = lambda count: None,
) -> dict[Split, list[Finding]]:
    """Findings about the splits of a data set that their readers do not have.

    Args:
        indices: The splits, in the order in which an image belongs to the first that has it.
        image_size: Height and width of the training images in px.
        seconds: Stated cost above which a sample of a split is decoded.
        keep: Keep facts of the image files in the cache folder.
        progress: Called with the number of further images that were examined.
    """
    if not indices:
        return {}
    facts, found = [], {}
    for split, index in indices.items():
        known, findings = examine_images(index, seconds, keep, progress)
        facts.append(known)
        found[split] = [*findings, *check_labels(index, image_size)]
    for split, finding in _repeated_images(indices, np.concatenate(facts)):
        found[split].append(finding)
    return found


def _repeated_images(indices: Mapping[Split, DatasetIndex], facts: Facts) -> list[tuple[Split, Finding]]:
    """A warning about each image of all splits that shows what an earlier one does."""
    splits = [split for split, index in indices.items() for _ in range(len(index))]
    paths = [path for index in indices.values() for path in index.paths()]
    seen = facts["seen"] & (facts["content"] > 0)
    _, first, groups = np.unique(facts["content"], return_index=True, return_inverse=True)
    same = np.where(seen, first[groups.ravel()], np.arange(len(paths)))
    is_copy = same != np.arange(len(paths))
    bits = np.where(is_copy, 0, facts["bits"]).astype(np.uint64)
    alike = find_look_alikes(bits, facts["trimmed"], facts["colours"])
    findings = []
    for i in np.flatnonzero(is_copy | (alike >= 0)).tolist():
        other = int(same[i] if is_copy[i] else alike[i])
        what = f"has the content of {paths[other]}" if is_copy[i] else f"looks like {paths[other]}"
        if paths[i] == paths[other]:
            what = "is the same file"
        kind, remedy = "same image twice" if is_copy[i] else "near-duplicate images", "remove one of them"
        if splits[i] != splits[other]:
            kind = f"{'same image' if is_copy[i] else 'near-duplicate'} in {splits[other]} and {splits[i]}"
            what += f", which is in {splits[other]}, so that {splits[i]} does not measure what is new"
        findings.append((splits[i], Finding(kind, paths[i], what, remedy, paths[i], beside=paths[other])))
    return findings
