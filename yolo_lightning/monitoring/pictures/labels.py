"""Statistics of the labels: counts of the classes, sizes and places of the boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .draw_boxes import Floats, Pixels
from .figures import new_figure, printable, to_pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Ints = npt.NDArray[np.int64]
_Doubles = npt.NDArray[np.float64]

_MOST_CELLS = 50
"""Cells on each side of the heat map of centres; fewer if there are few labels."""
_MOST_LETTERS = 24
_MOST_BARS = 50
"""Most classes with a bar each; of more, the most and the least frequent have one."""
_DARK, _MAP = "#1f4e79", "viridis"


@dataclass(frozen=True)
class LabelStatistics:
    """Counts over the T labels and I images of a split.

    Attributes:
        class_counts: int64 (C,).
        size_edges_px: (K+1,), edges of the bins of ``sizes``, a quarter of an octave apart.
        sizes: int64 (K, K), labels by height (rows) and width (columns).
        centres: int64 (N, N), labels by the place of their centre in the image: from its top (rows) and
            its left (columns).
        images_by_labels: int64, images that have 0, 1, 2, … labels.
    """

    class_counts: _Ints
    size_edges_px: _Doubles
    sizes: _Ints
    centres: _Ints
    images_by_labels: _Ints


def label_statistics(
    classes: _Ints,
    boxes: Floats,
    offsets: _Ints,
    sizes: npt.NDArray[np.int32],
    used: npt.NDArray[np.bool_],
    num_classes: int,
    image_size_px: int | None = None,
) -> LabelStatistics:
    """Count the labels of a split.

    Args:
        classes: int64 (T,), 0 .. C-1.
        boxes: (T, 4) xyxy in px of the original images.
        offsets: int64 (I+1,), first row of each image.
        sizes: int32 (I, 2), height and width of the images in px.
        used: bool (T,), which rows count.
        num_classes: C.
        image_size_px: longer side of the scaled images in px, for the sizes of boxes; without it, the
            sizes are those in the original images.
    """
    image = np.repeat(np.arange(len(sizes)), np.diff(offsets))[used]
    limit = sizes[image][:, [1, 0]].astype(np.float64)  # (T', 2) width, height
    low, high = boxes[used, :2].clip(0, limit), boxes[used, 2:].clip(0, limit)
    scale = 1.0 if image_size_px is None else image_size_px / limit.max(axis=1, keepdims=True)
    most = image_size_px or int(sizes.max(initial=1))
    edges = 2 ** (np.arange(np.ceil(4 * np.log2(max(most, 2))) + 1) / 4)
    side = ((high - low) * scale).clip(edges[0], edges[-1])  # (T', 2)
    bins = (np.searchsorted(edges, side, side="right") - 1).clip(0, len(edges) - 2)
    cells = int(np.clip(np.sqrt(len(image) / 8), 10, _MOST_CELLS))  # about 8 labels in each
    centre = ((low + high) / 2 / limit * cells).astype(np.int64).clip(0, cells - 1)
    per_image = np.bincount(image, minlength=len(sizes))
    return LabelStatistics(
        class_counts=np.bincount(classes[used], minlength=num_classes),
        size_edges_px=edges,
        sizes=_table(bins, len(edges) - 1),
        centres=_table(centre, cells),
        images_by_labels=np.bincount(per_image),
    )


def _table(columns_and_rows: _Ints, side: int) -> _Ints:
    """Counts (side, side) of the pairs (column, row) in (n, 2)."""
    flat = columns_and_rows[:, 1] * side + columns_and_rows[:, 0]
    return np.bincount(flat, minlength=side * side).reshape(side, side)


def draw_label_statistics(statistics: LabelStatistics, names: Sequence[str], title: str) -> Pixels:
    """The statistics as a figure of four parts, RGB (H, W, 3).

    Args:
        statistics: of a split.
        names: C names of classes.
        title: of the figure.
    """
    figure = new_figure(12, 9, "constrained")
    (classes, sizes), (per_image, centres) = figure.subplots(2, 2)
    _draw_classes(classes, statistics.class_counts, printable(names, _MOST_LETTERS))
    _draw_sizes(sizes, statistics)
    _draw_per_image(per_image, statistics.images_by_labels)
    _draw_centres(centres, statistics.centres)
    labels, images = int(statistics.class_counts.sum()), int(statistics.images_by_labels.sum())
    empty = int(statistics.images_by_labels[:1].sum())
    figure.suptitle(f"{title}: {labels:,} labels in {images:,} images; {empty:,} images without labels")
    return to_pixels(figure)


def _draw_classes(axes: Axes, counts: _Ints, names: Sequence[str]) -> None:
    order = np.argsort(-counts, kind="stable")
    shown = order
    if len(order) > _MOST_BARS:
        shown = np.concatenate((order[: _MOST_BARS // 2], order[-_MOST_BARS // 2 :]))
        axes.axhline(_MOST_BARS // 2 - 0.5, color="grey", linestyle=":", linewidth=1)
    place = np.arange(len(shown))
    bars = axes.barh(place, counts[shown], color=_DARK)
    size = float(np.clip(240 / len(shown), 4.5, 10))
    axes.bar_label(bars, [f"{count:,}" for count in counts[shown]], padding=3, fontsize=size)
    axes.set_yticks(place, [names[label] for label in shown], fontsize=size)
    axes.invert_yaxis()
    axes.margins(x=0.15, y=0.01)
    axes.set_xlabel("labels")
    left_out = len(order) - len(shown)
    axes.set_title("classes" if not left_out else f"most and least frequent classes, {left_out} left out")


def _draw_sizes(axes: Axes, statistics: LabelStatistics) -> None:
    edges = statistics.size_edges_px
    _heat(axes, edges, edges, statistics.sizes)
    octaves = 2 ** np.arange(int(np.log2(edges[-1])) + 1)
    for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        scale("log", base=2)
        axis.set_ticks(octaves.tolist(), [str(octave) for octave in octaves], fontsize=8)
    axes.set_aspect("equal")
    axes.set_xlabel("width in px")
    axes.set_ylabel("height in px")
    axes.set_title("sizes of boxes")


def _draw_centres(axes: Axes, centres: _Ints) -> None:
    ends = np.linspace(0, 1, len(centres) + 1)
    _heat(axes, ends, ends, centres)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.set_xlabel("x / width of the image")
    axes.set_ylabel("y / height of the image")
    axes.set_title("centres of boxes")


def _heat(axes: Axes, x: _Doubles, y: _Doubles, counts: _Ints) -> None:
    """Draw counts as colours; cells without a label stay empty."""
    shown = np.ma.masked_equal(counts, 0)
    mesh = axes.pcolormesh(x, y, shown, cmap=_MAP, vmin=0, vmax=max(1, int(counts.max(initial=1))))
    assert axes.figure is not None
    axes.figure.colorbar(mesh, ax=axes, label="labels", shrink=0.9)


def _draw_per_image(axes: Axes, images_by_labels: _Ints) -> None:
    axes.bar(np.arange(len(images_by_labels)), images_by_labels, color=_DARK, width=0.9)
    axes.locator_params(integer=True)
    axes.set_xlabel("labels in an image")
    axes.set_ylabel("images")
    axes.set_title("labels by image")
