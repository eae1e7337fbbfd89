"""Plots of precision, recall, F1 and confusion, as images; drawn without a window, on any thread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from .draw_boxes import Pixels, legible

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]

_DPI = 100
_COLOURED = 10
"""Up to so many classes each has a colour and its name; of more, the best and the worst few."""
_EXTREMES = 4
_COUNTED = 20
"""Up to so many classes each cell of a confusion matrix shows fraction and count."""
_LISTED = 25
"""Confusions in the list beside a larger matrix."""
_WIDEST_IN = 20.0
"""Side of the largest confusion matrix."""
_LONGEST_NAME = 18
_INK, _PALE = "#1f2933", "#b6c2cf"


def precision_recall_picture(
    recall: _Floats, precision: _Floats, ap_50: _Floats, class_names: Sequence[str]
) -> Pixels:
    """Precision against recall of each class, and the mean.

    Args:
        recall: (R,), 0..1 ascending.
        precision: (C, R), nan for a class without annotations.
        ap_50: (C,), average precision at an IoU of 0.5, likewise.
        class_names: C names.

    Returns:
        uint8 RGB (600, 900, 3).
    """
    figure = Figure(figsize=(9, 6), dpi=_DPI)
    axes = figure.add_axes((0.08, 0.1, 0.6, 0.82))
    _draw_classes(axes, recall, precision, ap_50, class_names)
    _draw_mean(axes, recall, precision, f"all classes {_mean(ap_50):.3f}")
    _finish(axes, "recall", "precision", "Precision against recall (IoU 0.5)")
    _write_legend(axes, "average precision")
    return render(figure)


def confidence_picture(
    confidence: _Floats,
    curves: dict[str, _Floats],
    class_names: Sequence[str],
    best_confidence: float,
    best_f1: float,
) -> Pixels:
    """F1, precision and recall of each class against confidence, side by side, and the means.

    Args:
        confidence: (K,), 0..1 ascending.
        curves: ``f1``, ``precision`` and ``recall``, each (C, K) and nan for a class without annotations.
        class_names: C names.
        best_confidence: where the mean F1 is best, 0..1; nan if unknown.
        best_f1: the mean F1 there.

    Returns:
        uint8 RGB (500, 1500, 3).
    """
    figure = Figure(figsize=(15, 5), dpi=_DPI)
    titles = {"f1": "F1", "precision": "precision", "recall": "recall"}
    rank = curves["f1"].max(axis=1)
    for place, (name, title) in enumerate(titles.items()):
        axes = figure.add_axes((0.045 + 0.29 * place, 0.12, 0.25, 0.78))
        _draw_classes(axes, confidence, curves[name], rank, class_names)
        _draw_mean(axes, confidence, curves[name], "all classes")
        _finish(axes, "confidence", title, f"{title} against confidence (IoU 0.5)")
        if not np.isnan(best_confidence):
            axes.axvline(best_confidence, color=_INK, linewidth=0.8, linestyle=":")
        if name == "f1" and not np.isnan(best_confidence):
            text = f"best {best_f1:.3f} at {best_confidence:.3f}"
            axes.text(0.5, 0.02, text, ha="center", fontsize=9, color=_INK, transform=axes.transAxes)
    _write_legend(axes, "best F1 of the class")
    return render(figure)


def confusion_picture(confusion: _Ints, class_names: Sequence[str]) -> Pixels:
    """A confusion matrix: colour is the part of its column, with counts where there is room for them.

    Beside a matrix of more classes the most frequent confusions are listed in words.

    Args:
        confusion: (C + 1, C + 1) counts, rows predicted, columns true, the last of each background.
        class_names: C names.

    Returns:
        uint8 RGB, its size growing with C, up to about 2600 px.
    """
    names, totals = [*_printable(class_names), "background"], confusion.sum(axis=0)
    part = confusion / np.maximum(totals, 1)
    sides, counted = len(names), len(class_names) <= _COUNTED
    matrix_in = max(3.0, sides * 0.62 if counted else min(sides * 0.17, _WIDEST_IN))
    left_in, bottom_in, top_in, right_in = 1.7, 1.9, 0.6, 1.0 if counted else 4.3
    width_in, height_in = left_in + matrix_in + right_in, bottom_in + matrix_in + top_in
    figure = Figure(figsize=(width_in, height_in), dpi=_DPI)
    below, high = bottom_in / height_in, matrix_in / height_in
    axes = figure.add_axes((left_in / width_in, below, matrix_in / width_in, high))
    norm = PowerNorm(0.5, 0.0, 1.0)  # small parts matter, and would be white
    axes.imshow(part, cmap="Blues", norm=norm, interpolation="nearest", aspect="auto")
    size = 9 if counted else min(7.0, 60 * matrix_in / sides)
    columns = [f"{name}  {total:,}" for name, total in zip(names, totals, strict=True)]
    axes.set_xticks(range(sides), columns, rotation=90, fontsize=size)
    axes.set_yticks(range(sides), names, fontsize=size)
    axes.tick_params(length=0)
    axes.set_xlabel("true, and how many", fontsize=10)
    axes.set_ylabel("predicted", fontsize=10)
    axes.set_title("Confusion (confidence 0.25, IoU 0.45)", fontsize=11, loc="left")
    if counted:
        _write_cells(axes, confusion, part)
    else:
        edges = np.arange(-0.5, sides)
        for draw in (axes.hlines, axes.vlines):  # thinner in small cells, which they would cover
            draw(edges, edges[0], edges[-1], color="#e8ecf0", linewidth=0.4 * size / 7)
        _write_list(figure, confusion, part, names, 1 - (right_in - 1.1) / width_in, 1 - top_in / height_in)
    bar = figure.add_axes(((left_in + matrix_in + 0.15) / width_in, below, 0.15 / width_in, high))
    figure.colorbar(ScalarMappable(norm, "Blues"), cax=bar, ticks=[0, 0.05, 0.25, 0.5, 1])
    bar.tick_params(labelsize=8)
    bar.set_ylabel("part of its column", fontsize=8)
    return render(figure)


def _write_cells(axes: Axes, confusion: _Ints, part: _Floats) -> None:
    for row, column in np.argwhere(confusion > 0):
        ink = "white" if part[row, column] > 0.35 else _INK
        text = f"{part[row, column]:.2f}\n{confusion[row, column]:,}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)


def _write_list(
    figure: Figure, confusion: _Ints, part: _Floats, names: Sequence[str], left: float, top: float
) -> None:
    """The classes most often taken for others, by the part of the annotations of a class."""
    among = part[:-1, :-1].copy()
    np.fill_diagonal(among, 0.0)
    order = np.argsort(among, axis=None)[::-1][:_LISTED]
    lines = ["most confused, by part of the true class", ""]
    for row, column in zip(*np.unravel_index(order, among.shape), strict=True):
        if among[row, column] > 0:
            counts = f"{among[row, column]:.2f} ({confusion[row, column]:,})"
            lines.append(f"{counts}  {names[column]} as {names[row]}")
    figure.text(left, top, "\n".join(lines), va="top", fontsize=8, color=_INK, linespacing=1.5)


def _draw_classes(axes: Axes, x: _Floats, rows: _Floats, rank: _Floats, class_names: Sequence[str]) -> None:
    """A line for each class (C, X) that has annotations, the named ones with their rank (C,)."""
    known = np.flatnonzero(~np.isnan(rank))
    best_first = known[np.argsort(-rank[known], kind="stable")]
    named = best_first
    if len(known) > _COLOURED:
        named = np.concatenate((best_first[:_EXTREMES], best_first[-_EXTREMES:]))
        for label in np.setdiff1d(known, named):
            axes.plot(x, rows[label], color=_PALE, linewidth=0.6)
    names = _printable(class_names)
    for place, label in enumerate(named):
        text = f"{names[label]} {rank[label]:.3f}"
        axes.plot(x, rows[label], color=f"C{place}", linewidth=1.2, label=text)


def _draw_mean(axes: Axes, x: _Floats, rows: _Floats, text: str) -> None:
    known = ~np.isnan(rows).any(axis=1)
    if known.sum() > 1:
        axes.plot(x, rows[known].mean(axis=0), color=_INK, linewidth=2.5, label=text)


def _write_legend(axes: Axes, title: str) -> None:
    if axes.lines:
        legend = axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=9)
        legend.set_title(title)
        legend.get_title().set_fontsize(9)


def _finish(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(color="#e8ecf0")
    axes.spines[["top", "right"]].set_visible(False)


def _mean(values: _Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _printable(class_names: Sequence[str]) -> list[str]:
    """Names that can be drawn, the number of a class instead of one that cannot, and none too long."""
    names = []
    for name in legible(class_names):
        drawn = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        # A dollar would begin a formula, and a legend leaves out what begins with an underscore.
        names.append((" " if drawn.startswith("_") else "") + drawn.replace("$", r"\$"))
    return names


def render(figure: Figure) -> Pixels:
    """A figure as RGB (H, W, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
