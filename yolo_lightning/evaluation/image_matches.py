"""Matches of a validation by image: what mean average precision needs, for any weights of the images."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from .coco_matching import IOU_THRESHOLDS, Annotations, Detections, Ints, Matches

MATCHES = "matches.safetensors"
"""File of the matches of the best epoch, in the run directory."""
_BITS = (1 << np.arange(len(IOU_THRESHOLDS))).astype(np.uint16)  # one of each IoU threshold


class ImageMatches(NamedTuple):
    """I images with T annotations of C classes, and the D detections that change the metric.

    Detections are in COCO's order: by class, best first. Those after the last hit of their class are left
    out. Crowds are no annotations here.
    """

    image_ids: Ints  # int64 (I,), ascending
    digest: npt.NDArray[np.uint8]  # (32,), SHA-256 of ids and annotations
    truth_image: npt.NDArray[np.uint32]  # (T,), 0 .. I - 1
    truth_label: npt.NDArray[np.uint32]  # (T,), 0 .. C - 1
    first: Ints  # int64 (C + 1,); detections of class c are first[c]:first[c + 1]
    image: npt.NDArray[np.uint32]  # (D,), 0 .. I - 1
    hit: npt.NDArray[np.uint16]  # (D,), bit k: matched with an annotation at IOU_THRESHOLDS[k]
    ignored: npt.NDArray[np.uint16]  # (D,), bit k: matched with a crowd

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.first) - 1

    def rows(self, threshold: int) -> tuple[Ints, Ints]:
        """Detections that hit, and those that are ignored, at one of the IoU thresholds, ascending."""
        bit = _BITS[threshold]
        return np.flatnonzero(self.hit & bit), np.flatnonzero(self.ignored & bit)

    def to_bytes(self) -> bytes:
        """The contents of the file."""
        return save({name: np.ascontiguousarray(value) for name, value in self._asdict().items()})

    @classmethod
    def from_bytes(cls, contents: bytes) -> ImageMatches:
        """Read the contents of a file, which may be a stranger's.

        Raises:
            ValueError: they are damaged, or contradict each other.
        """
        try:
            found = cls(**load(contents))
        except (SafetensorError, TypeError) as error:
            raise ValueError(f"no matches of a validation ({error})") from None
        arrays: dict[str, npt.NDArray[Any]] = found._asdict()
        wanted = (np.int64, np.uint8, np.uint32, np.uint32, np.int64, np.uint32, np.uint16, np.uint16)
        images, detections, first = len(found.image_ids), len(found.image), found.first
        if not (
            all(a.dtype == kind and a.ndim == 1 for a, kind in zip(arrays.values(), wanted, strict=True))
            and len(found.truth_image) == len(found.truth_label)
            and detections == len(found.hit) == len(found.ignored)
            and len(first) > 1
            and first[0] == 0 <= np.diff(first).min() <= first[-1] == detections
            and found.image.max(initial=0) < images > found.truth_image.max(initial=0)
            and found.truth_label.max(initial=0) < len(first) - 1
        ):
            raise ValueError("no matches of a validation: its arrays do not belong together")
        return found


def image_matches(
    image_ids: Ints, found: Detections, truth: Annotations, matches: Matches, num_classes: int, *, most: int
) -> ImageMatches:
    """Collect the matches over all areas of a validation.

    Args:
        image_ids: (I,), ascending, in the order of the groups.
        found: detections.
        truth: annotations.
        matches: matches of the two.
        num_classes: C.
        most: detections of an image and class that count.
    """
    hit, ignored = (np.zeros(len(found.label), np.uint16) for _ in range(2))
    matched, excused = matches.matched[:, 0], matches.ignored[:, 0]  # (M, 10) over all areas
    hit[matches.detection] = ((matched & ~excused) * _BITS).sum(axis=1, dtype=np.uint16)
    ignored[matches.detection] = ((matched & excused) * _BITS).sum(axis=1, dtype=np.uint16)
    hit[found.rank >= most] = 0
    hits = np.flatnonzero(hit)
    last_hit = np.full(num_classes, -1)
    last_hit[found.label[hits]] = hits  # ascending, so that the last of a class stays
    kept = (found.rank < most) & (np.arange(len(hit)) <= last_hit[found.label])
    order = np.lexsort((truth.crowd, *truth.boxes.T, truth.group))  # ranks send annotations in any order
    digest = hashlib.sha256(image_ids.tobytes())
    for column in (truth.group, truth.boxes, truth.crowd):
        digest.update(column[order].tobytes())
    group = truth.group[~truth.crowd]
    return ImageMatches(
        image_ids=image_ids,
        digest=np.frombuffer(digest.digest(), np.uint8),
        truth_image=(group // num_classes).astype(np.uint32),
        truth_label=(group % num_classes).astype(np.uint32),
        first=np.searchsorted(found.label[kept], np.arange(num_classes + 1)),
        image=(found.group[kept] // num_classes).astype(np.uint32),
        hit=hit[kept],
        ignored=ignored[kept],
    )
