"""Statistics of the labels: counts of the classes, sizes and places of the boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...data.annotations.index import DatasetIndex
from ...data.image_size import Size
from ...data.letterbox import letterbox_ratios
from .draw_boxes import Pixels
from .plots import new_figure, printable, to_pixels

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
    """Counts over the labels and images of a split."""

    class_counts: _Ints
    """(C,)."""
    size_edges_px: _Doubles
    """(K+1,), edges of the bins of ``sizes``, a quarter of an octave apart."""
    sizes: _Ints
    """(K, K), labels by height (rows) and width (columns)."""
    centres: _Ints
    """(N, N), labels by the place of their centre in the image, from its top (rows) and left (columns)."""
    images_by_labels: _Ints
    """Images that have 0, 1, 2, … labels."""


def label_statistics(index: DatasetIndex, image_size: Size | None = None) -> LabelStatistics:
    """Count the labels of a split that training uses.

    Args:
        index: of the split, with C classes and I images.
        image_size: height and width in px that images are scaled into, for the sizes of boxes; without it,
            the sizes are those in the original images.
    """
    used, images = index.trainable, len(index.sizes)
    image = np.repeat(np.arange(images), np.diff(index.offsets))[used]
    limit = index.sizes[image][:, [1, 0]].astype(np.float64)  # (T, 2) width, height
    low, high = index.boxes[used, :2].clip(0, limit), index.boxes[used, 2:].clip(0, limit)
    scale = 1.0 if image_size is None else letterbox_ratios(index.sizes, image_size)[image, None]
    most = max(image_size) if image_size else int(index.sizes.max(initial=1))
    edges = 2 ** (np.arange(np.ceil(4 * np.log2(max(most, 2))) + 1) / 4)
    side = ((high - low) * scale).clip(edges[0], edges[-1])
    cells = int(np.clip(np.sqrt(len(image) / 8), 10, _MOST_CELLS))  # about 8 labels in each
    centre = (low + high) / 2 / limit
    return LabelStatistics(
        class_counts=np.bincount(index.classes[used], minlength=len(index.class_names)),
        size_edges_px=edges,
        sizes=_histogram(side, edges),
        centres=_histogram(centre, np.linspace(0, 1, cells + 1)),
        images_by_labels=np.bincount(np.bincount(image, minlength=images)),
    )


def _histogram(points: _Doubles, edges: _Doubles) -> _Ints:
    """Counts of points (T, 2) by y (rows) and x (columns)."""
    return np.histogram2d(points[:, 1], points[:, 0], bins=(edges, edges))[0].astype(np.int64)


def draw_label_statistics(statistics: LabelStatistics, names: Sequence[str], title: str) -> Pixels:
    """The statistics of C named classes as a figure of four parts, RGB (H, W, 3)."""
    figure = new_figure(12, 9, "constrained")
    (classes, sizes), (per_image, centres) = figure.subplots(2, 2)
    _draw_classes(classes, statistics.class_counts, printable(names, _MOST_LETTERS))
    _draw_sizes(sizes, statistics)
    ends = np.linspace(0, 1, len(statistics.centres) + 1)
    _draw_heat(centres, ends, statistics.centres)
    centres.invert_yaxis()
    centres.set(xlabel="x / width of the image", ylabel="y / height of the image", title="centres of boxes")
    by_labels = statistics.images_by_labels
    per_image.bar(np.arange(len(by_labels)), by_labels, color=_DARK, width=0.9)
    per_image.locator_params(integer=True)
    per_image.set(xlabel="labels in an image", ylabel="images", title="labels by image")
    labels, images, empty = statistics.class_counts.sum(), by_labels.sum(), by_labels[:1].sum()
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
    left_out = len(order) - len(shown)
    title = f"most and least frequent classes, {left_out} left out" if left_out else "classes"
    axes.set(xlabel="labels", title=title)


def _draw_sizes(axes: Axes, statistics: LabelStatistics) -> None:
    edges = statistics.size_edges_px
    _draw_heat(axes, edges, statistics.sizes)
    octaves = 2 ** np.arange(int(np.log2(edges[-1])) + 1)
    for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        scale("log", base=2)
        axis.set_ticks(octaves.tolist(), [str(octave) for octave in octaves], fontsize=8)
    axes.set(xlabel="width in px", ylabel="height in px", title="sizes of boxes")


def _draw_heat(axes: Axes, edges: _Doubles, counts: _Ints) -> None:
    """Draw counts as colours; cells without a label stay empty."""
    shown = np.ma.masked_equal(counts, 0)
    mesh = axes.pcolormesh(edges, edges, shown, cmap=_MAP, vmin=0, vmax=max(1, int(counts.max(initial=1))))
    assert axes.figure is not None
    axes.figure.colorbar(mesh, ax=axes, label="labels", shrink=0.9)
    axes.set_aspect("equal")
