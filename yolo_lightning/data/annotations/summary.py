"""What was counted and found wrong while an index was built."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

SMALL_AREA_PX2 = 32.0**2
LARGE_AREA_PX2 = 96.0**2
"""COCO's bounds: small below 32 x 32 px, large from 96 x 96 px, medium between."""

_SHOWN = 5


@dataclass(frozen=True)
class IndexReport:
    """Counts and problems of one split.

    Attributes:
        class_names: Names of the C classes.
        class_counts: Annotations of each class, crowds included.
        images: Images of the split.
        unlabelled: Images without any annotation.
        crowd: Annotations that are crowds: not trained on, ignored in evaluation as COCO does.
        clipped: Annotations that reach out of their image; training sees the part inside.
        dropped: Annotations without area inside their image: not trained on.
        duplicate: Exact repetitions of an earlier annotation of the image: not trained on.
        small: Annotations with an area below 32^2 px^2.
        medium: Annotations between small and large.
        large: Annotations with an area of 96^2 px^2 or more.
        side_px: Minimum, median and maximum of the square root of the area, in px.
        problems: One sentence each, naming the file and the line or annotation.
        from_cache: Whether this was read before and kept since, see ``index_file``.
    """

    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    images: int
    unlabelled: int
    crowd: int
    clipped: int
    dropped: int
    duplicate: int
    small: int
    medium: int
    large: int
    side_px: tuple[float, float, float]
    problems: tuple[str, ...]
    from_cache: bool = False

    def summary(self, title: str = "") -> str:
        """A few lines for the screen; long lists are cut, with their total."""
        total = sum(self.class_counts)
        low, middle, high = self.side_px
        ranked = sorted(zip(self.class_names, self.class_counts, strict=True), key=lambda item: -item[1])
        classes = [f"{name} {count:,}" for name, count in ranked]
        if len(classes) > 2 * _SHOWN:
            hidden = len(classes) - 2 * _SHOWN
            classes = [*classes[:_SHOWN], f"... {hidden} more ...", *classes[-_SHOWN:]]
        lines = [
            f"{title + ': ' if title else ''}{self.images:,} images ({self.unlabelled:,} without labels), "
            f"{total:,} labels of {len(self.class_names)} classes{'; read from the cache' * self.from_cache}",
            f"  labels by class: {', '.join(classes)}",
            f"  box sizes: {self.small:,} small, {self.medium:,} medium, {self.large:,} large; "
            f"side {low:.0f} to {high:.0f} px, median {middle:.0f} px",
        ]
        odd = {
            "clipped to the image": self.clipped,
            "without area, not trained on": self.dropped,
            "duplicate, not trained on": self.duplicate,
            "crowd, not trained on": self.crowd,
        }
        if any(odd.values()):
            lines.append("  labels " + "; ".join(f"{words}: {n:,}" for words, n in odd.items() if n))
        if self.problems:
            lines.append(f"  {len(self.problems):,} problem{'s' if len(self.problems) > 1 else ''}:")
            lines += [f"    {problem}" for problem in self.problems[:_SHOWN]]
            if len(self.problems) > _SHOWN:
                lines.append(f"    ... and {len(self.problems) - _SHOWN:,} more")
        return "\n".join(lines)


def measure(
    *,
    class_names: tuple[str, ...],
    source: Path,
    images: int,
    labelled_images: int,
    classes: npt.NDArray[np.int64],
    areas: npt.NDArray[np.float32],
    crowd: npt.NDArray[np.bool_],
    no_area: npt.NDArray[np.bool_],
    clipped: npt.NDArray[np.bool_],
    duplicate: npt.NDArray[np.bool_],
    describe: Callable[[int], str],
    notes: Iterable[str],
) -> IndexReport:
    """Count the T annotations of a split; ``describe`` says where row t stands in its file."""
    counts = np.bincount(classes, minlength=len(class_names))
    problems = [*notes, *_unused_classes(class_names, counts, source)]
    for rows, words in (
        (no_area, "the box has no area inside the image and is not trained on; correct or remove it"),
        (duplicate, "the label repeats an earlier one of the image and is not trained on; remove it"),
        (clipped, "the box reaches out of the image and is clipped to it for training"),
    ):
        problems += [f"{describe(int(row))}: {words}" for row in np.flatnonzero(rows)]
    small, large = int((areas < SMALL_AREA_PX2).sum()), int((areas >= LARGE_AREA_PX2).sum())
    sides = np.sqrt(np.maximum(areas, 0)) if len(areas) else np.zeros(1)
    return IndexReport(
        class_names=class_names,
        class_counts=tuple(int(count) for count in counts),
        images=images,
        unlabelled=images - labelled_images,
        crowd=int(crowd.sum()),
        clipped=int(clipped.sum()),
        dropped=int(no_area.sum()),
        duplicate=int(duplicate.sum()),
        small=small,
        medium=len(areas) - small - large,
        large=large,
        side_px=(float(sides.min()), float(np.median(sides)), float(sides.max())),
        problems=tuple(problems),
    )


def _unused_classes(
    class_names: tuple[str, ...], counts: npt.NDArray[np.int64], source: Path
) -> Iterable[str]:
    """One sentence about the classes that no annotation of the split has, if there are any."""
    unused = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
    if not unused:
        return
    shown = ", ".join(repr(name) for name in unused[:_SHOWN])
    more = f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else ""
    what = (
        f"no label has the category {shown}"
        if len(unused) == 1
        else f"no label has the categories {shown}{more}"
    )
    yield f"{source}: {what}; remove what is not meant to be learnt, or add labels"
