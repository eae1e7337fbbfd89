"""Report of a split: counts, box sizes and problems of its annotations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

SMALL_AREA_PX2 = 32.0**2
LARGE_AREA_PX2 = 96.0**2
"""COCO's bounds: small below 32 x 32 px, large from 96 x 96 px, medium between."""

_SHOWN = 5


@dataclass(frozen=True)
class IndexReport:
    """Counts and problems of one split."""

    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    """Annotations of each class, crowds included."""
    images: int
    unlabelled: int
    """Images without any annotation."""
    crowd: int
    """Crowds: not trained on, ignored in evaluation as COCO does."""
    clipped: int
    """Annotations that reach out of their image; training uses the part inside."""
    dropped: int
    """Annotations without area inside their image: not trained on."""
    duplicate: int
    """Exact repetitions of an earlier annotation of the image: not trained on."""
    small: int
    medium: int
    large: int
    side_px: tuple[float, float, float]
    """Minimum, median and maximum of the square root of the area, in px."""
    problems: tuple[str, ...]
    """One sentence each, naming the file and the line or annotation."""
    from_cache: bool = False
    """True if the index comes from its cache file."""

    def summary(self, title: str = "") -> str:
        """A few lines for the screen; long lists are cut and their length is stated."""
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


class Flaws(NamedTuple):
    """Flaws of T annotations, bool (T,) each; crowds have none."""

    no_area: npt.NDArray[np.bool_]
    """No area inside the image: not trained on."""
    clipped: npt.NDArray[np.bool_]
    """Reaches out of the image."""
    duplicate: npt.NDArray[np.bool_]
    """Repeats an earlier annotation: not trained on."""


def summarise(
    *,
    class_names: tuple[str, ...],
    source: Path,
    images: int,
    labelled_images: int,
    classes: npt.NDArray[np.int64],
    areas: npt.NDArray[np.float32],
    crowd: npt.NDArray[np.bool_],
    flaws: Flaws,
    describe: Callable[[int], str],
    notes: Iterable[str],
) -> IndexReport:
    """Count the T annotations of a split; ``describe`` names the place of row t in its file."""
    counts = np.bincount(classes, minlength=len(class_names))
    problems = [*notes, *_unused_classes(class_names, counts, source)]
    for rows, words in (
        (flaws.no_area, "the box has no area inside the image and is not trained on; correct or remove it"),
        (flaws.duplicate, "the label repeats an earlier one of the image and is not trained on; remove it"),
        (flaws.clipped, "the box reaches out of the image and is clipped to it for training"),
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
        clipped=int(flaws.clipped.sum()),
        dropped=int(flaws.no_area.sum()),
        duplicate=int(flaws.duplicate.sum()),
        small=small,
        medium=len(areas) - small - large,
        large=large,
        side_px=(float(sides.min()), float(np.median(sides)), float(sides.max())),
        problems=tuple(problems),
    )


def _unused_classes(
    class_names: tuple[str, ...], counts: npt.NDArray[np.int64], source: Path
) -> Iterable[str]:
    """One sentence about the classes without annotations, if there are any."""
    unused = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
    if not unused:
        return
    noun = "category" if len(unused) == 1 else "categories"
    shown = ", ".join(repr(name) for name in unused[:_SHOWN])
    more = f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else ""
    yield f"{source}: no label has the {noun} {shown}{more}; remove unused categories, or add labels"
