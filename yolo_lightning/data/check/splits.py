"""The check of all splits of a data set: images, labels, and images that are in it twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..annotations.findings import Finding
from ..annotations.index import DatasetIndex
from ..annotations.source import Split
from ..image_size import Size
from .images import ImageFacts, examine_images
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
    facts = {split: examine_images(index, seconds, keep, progress) for split, index in indices.items()}
    found = {
        split: [*facts[split].findings, *check_labels(index, image_size)] for split, index in indices.items()
    }
    for split, finding in _repeated_images(indices, facts):
        found[split].append(finding)
    return found


def _repeated_images(
    indices: Mapping[Split, DatasetIndex], facts: Mapping[Split, ImageFacts]
) -> list[tuple[Split, Finding]]:
    """A warning about each image that shows what an earlier one does."""
    if not indices:
        return []
    splits = [split for split, index in indices.items() for _ in range(len(index))]
    paths = [path for index in indices.values() for path in index.paths()]
    content = np.concatenate([fact.content for fact in facts.values()])
    seen = np.concatenate([fact.seen for fact in facts.values()]) & (content > 0)
    _, first, groups = np.unique(content, return_index=True, return_inverse=True)
    same = np.where(seen, first[groups.ravel()], np.arange(len(paths)))
    is_copy = same != np.arange(len(paths))
    looks = [np.concatenate([getattr(fact, name) for fact in facts.values()]) for name in ("bits", "trimmed")]
    bits = np.where(is_copy, 0, looks[0]).astype(np.uint64)
    alike = find_look_alikes(bits, looks[1], np.concatenate([fact.colours for fact in facts.values()]))
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
