"""Plots of training and validation: Matplotlib figures without pyplot, so that any thread may draw them."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from .draw_boxes import Pixels, legible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EVALUATION = "evaluation.json"
_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]

_COLOURED = 10
"""Most classes that all have a colour and a name; of more, the best and the worst few have."""
_EXTREMES = 4
_COUNTED = 20
"""Most classes with fraction and count in each cell of the confusion matrix."""
_LISTED = 25
"""Confusions in the list beside a larger matrix."""
_WIDEST_IN = 20.0
"""Side of the largest confusion matrix."""
_SMALLEST_PT = 2.0
"""Names of classes are left out if they would be smaller."""
_LONGEST_NAME = 18
_MOST_DOTS = 40
"""Longer lines are drawn without a dot for each value."""
INK, PALE, GRID = "#1f2933", "#aab6c2", "#e8ecf0"
"""Colours of text and means, of unnamed curves, and of grid lines."""
_DARK_THEME = {INK: "#e9ebee", "#000000": "#9ba4af", GRID: "#2d3238"}
"""Replacements of colours in an SVG if the reader's theme is dark."""
_DPI = 100
_PATH = re.compile(r' d="[^"]*"')
_LONG_DECIMALS = re.compile(r"(\.\d\d)\d+")
_OPTIONS = threading.Lock()
"""Matplotlib's options are those of the process."""


def new_figure(width_in: float, height_in: float, layout: Literal["constrained"] | None = None) -> Figure:
    """An empty figure of some inches; Matplotlib is imported here since it takes a quarter of a second."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), dpi=_DPI, layout=layout)


def to_pixels(figure: Figure) -> Pixels:
    """A figure as uint8 RGB (H, W, 3), 100 px an inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def to_svg(figure: Figure) -> str:
    """A figure as a small SVG: text stays text, and the colours follow the reader's light or dark theme."""
    import matplotlib

    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with _OPTIONS, matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "yolo-lightning"}):
        figure.savefig(file, format="svg", dpi=_DPI, transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = _PATH.sub(lambda path: _LONG_DECIMALS.sub(r"\1", path[0]), svg)  # a hundredth of a point is enough
    light, dark = "", ""
    for number, (colour, in_the_dark) in enumerate(_DARK_THEME.items()):
        svg = svg.replace(f": {colour}", f": var(--c{number})")
        light += f"--c{number}:{colour};"
        dark += f"--c{number}:{in_the_dark};"
    theme = f"svg{{{light}}}text{{fill:var(--c0)}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}"
    return svg[svg.index("<svg") :].replace("</svg>", f"<style>{theme}</style></svg>")


def printable(class_names: Sequence[str], most_letters: int) -> list[str]:
    """Names as Matplotlib can draw them: no letter that the font lacks, no formula, none too long."""
    names = []
    for name in legible(class_names):
        short = name if len(name) <= most_letters else f"{name[: most_letters - 1]}…"
        # A dollar would begin a formula, and a legend leaves out what begins with an underscore.
        names.append((" " if short.startswith("_") else "") + short.replace("$", r"\$"))
    return names


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A validation as ``evaluation.json`` describes it, with C classes, K confidences and R recalls."""

    epoch: int
    """Counted from 0."""
    class_names: list[str]
    confidence: _Floats
    """(K,) in 0..1, ascending."""
    precision: _Floats
    """(C, K) at each confidence, like recall and f1; all curves are nan for a class without annotations."""
    recall: _Floats
    f1: _Floats
    pr_recall: _Floats
    """(R,) in 0..1, ascending."""
    pr_precision: _Floats
    """(C, R)."""
    ap_50: _Floats
    """(C,) average precision at an IoU of 0.5; nan for a class without annotations."""
    confusion: _Ints
    """(C + 1, C + 1), rows predicted, columns true, the last of each background."""
    best_confidence: float | None
    """The confidence with the best mean F1; None without annotations."""
    best_f1: float | None

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Evaluation:
        """Read what ``describe_evaluation`` returned.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: a part is missing or has another shape.
        """
        names = [str(name) for name in content["class_names"]]
        classes, confidences, recalls = len(names), len(content["confidence"]), len(content["pr_recall"])
        shapes: dict[str, tuple[int, ...]] = {
            "confidence": (confidences,),
            **dict.fromkeys(("precision", "recall", "f1"), (classes, confidences)),
            "pr_recall": (recalls,),
            "pr_precision": (classes, recalls),
            "ap_50": (classes,),
            "confusion": (classes + 1, classes + 1),
        }
        arrays: dict[str, Any] = {key: np.array(content[key], np.float64) for key in shapes}  # None is nan
        for key, shape in shapes.items():
            if arrays[key].shape != shape or 0 in shape:
                raise ValueError(f"{key} has shape {arrays[key].shape} instead of {shape}")
        arrays["confusion"] = arrays["confusion"].astype(np.int64)
        best = content.get("best_f1") or {}
        arrays |= {f"best_{key}": float(best[key]) if best else None for key in ("confidence", "f1")}
        return cls(epoch=int(content["epoch"]), class_names=names, **arrays)


def line_colour(number: int) -> str:
    """Colour of the nth line, as ``#rrggbb``; every tenth is the same."""
    from matplotlib.colors import to_hex

    return to_hex(f"C{number % 10}")


def plot_curves(
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    x_label: str,
    *,
    from_zero: bool = True,
    has_legend: bool = False,
    mark: tuple[float, str] | None = None,
) -> Figure:
    """A small plot of one or several lines.

    Args:
        lines: (name, [(x, y), …]), x ascending; the nth has the nth line colour, the last is on top.
        x_label: what x is.
        from_zero: the y axis begins at 0.
        has_legend: whether several lines are named above the plot.
        mark: an x that a vertical line points out, and its caption.
    """
    figure = new_figure(3.9, 2.5)
    axes = figure.add_axes((0.15, 0.19, 0.82, 0.69))
    names = printable([name for name, _ in lines], _LONGEST_NAME)
    for number, (name, (_, points)) in enumerate(zip(names, lines, strict=True)):
        if points:
            dot = "." if len(points) <= _MOST_DOTS else ""
            (line,) = axes.plot(*zip(*points, strict=True), dot + "-", color=f"C{number}", label=name)
            # A line of zeros lies on the frame.
            line.set(linewidth=1.5, markersize=5, zorder=3, clip_on=False)
    if from_zero:
        axes.set_ylim(bottom=0)
    if mark is not None:
        axes.axvline(mark[0], color=INK, linewidth=0.8, linestyle=":")
        left, right = axes.get_xlim()
        side = "right" if mark[0] > (left + right) / 2 else "left"
        text = axes.annotate(mark[1], (mark[0], 0.04), (3 if side == "left" else -3, 0),
                             xycoords=("data", "axes fraction"), textcoords="offset points")  # fmt: skip
        text.set(ha=side, fontsize=8, color=INK)
    if has_legend and sum(bool(points) for _, points in lines) > 1:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=2, frameon=False, fontsize=8)
    axes.locator_params(axis="x", integer=True, nbins=6)
    axes.locator_params(axis="y", nbins=5)
    axes.tick_params(labelsize=8)
    axes.set_xlabel(x_label, fontsize=8)
    _draw_grid(axes)
    return figure


def _draw_grid(axes: Axes) -> None:
    axes.grid(color=GRID)
    axes.spines[["top", "right"]].set_visible(False)


def plot_evaluation(found: Evaluation) -> dict[str, Figure]:
    """The plots of a validation by name."""
    return {
        "precision_recall": plot_precision_recall(found),
        "f1": plot_confidence(found),
        "confusion": plot_confusion(found.confusion, found.class_names),
    }


def plot_precision_recall(found: Evaluation) -> Figure:
    """Precision against recall of each class, and the mean."""
    figure = new_figure(9, 6)
    axes = figure.add_axes((0.08, 0.1, 0.6, 0.82))
    _draw_classes(
        axes, found.pr_recall, found.pr_precision, found.ap_50, found.class_names, mean_of_rank=True
    )
    axes.set(xlabel="recall", ylabel="precision")
    axes.set_title("Precision against recall (IoU 0.5)", fontsize=11, loc="left")
    _write_legend(axes, "average precision")
    return figure


def plot_confidence(found: Evaluation) -> Figure:
    """F1, precision and recall of each class against confidence, side by side, and the means."""
    figure = new_figure(11, 3.9)
    curves = {"F1": found.f1, "Precision": found.precision, "Recall": found.recall}
    rank = found.f1.max(axis=1)
    for place, (title, rows) in enumerate(curves.items()):
        axes = figure.add_axes((0.05 + 0.28 * place, 0.14, 0.22, 0.74))
        _draw_classes(axes, found.confidence, rows, rank, found.class_names)
        axes.set(xlabel="confidence", ylabel=title if title == "F1" else title.lower())
        axes.set_title(f"{title} (IoU 0.5)", fontsize=11, loc="left")
        if found.best_confidence is not None:
            axes.axvline(found.best_confidence, color=INK, linewidth=0.8, linestyle=":")
            if title == "F1":
                text = f"best {found.best_f1:.3f} at {found.best_confidence:.3f}"
                axes.text(0.5, 0.02, text, ha="center", fontsize=9, color=INK, transform=axes.transAxes)
    _write_legend(axes, "best F1 of the class")
    return figure


def plot_confusion(confusion: _Ints, class_names: Sequence[str]) -> Figure:
    """A confusion matrix: colour is the fraction of its column, with counts where there is room for them.

    Beside a matrix of more than 20 classes the most frequent confusions are listed in words.

    Args:
        confusion: (C + 1, C + 1) counts, rows predicted, columns true, the last of each background.
        class_names: C names.

    Returns:
        A figure whose size grows with C, up to about 26 inches.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    names, totals = [*printable(class_names, _LONGEST_NAME), "background"], confusion.sum(axis=0)
    part = confusion / np.maximum(totals, 1)
    sides, counted = len(names), len(class_names) <= _COUNTED
    matrix_in = max(3.0, sides * 0.62 if counted else min(sides * 0.17, _WIDEST_IN))
    left_in, bottom_in, top_in, right_in = 1.7, 1.9, 0.6, 1.0 if counted else 4.3
    width_in, height_in = left_in + matrix_in + right_in, bottom_in + matrix_in + top_in
    figure = new_figure(width_in, height_in)
    below, high = bottom_in / height_in, matrix_in / height_in
    axes = figure.add_axes((left_in / width_in, below, matrix_in / width_in, high))
    norm = PowerNorm(0.5, 0.0, 1.0)  # small parts matter, and would be white
    colours = LinearSegmentedColormap.from_list("parts", ["#1c64b400", "#1c64b4ff"])  # 0 is the background
    axes.imshow(part, cmap=colours, norm=norm, interpolation="none", aspect="auto")
    size = 9 if counted else min(7.0, 60 * matrix_in / sides)
    columns = [f"{name}  {total:,}" for name, total in zip(names, totals, strict=True)]
    ticks = range(sides if size >= _SMALLEST_PT else 0)
    axes.set_xticks(ticks, columns[: len(ticks)], rotation=90, fontsize=size)
    axes.set_yticks(ticks, names[: len(ticks)], fontsize=size)
    axes.tick_params(length=0)
    axes.set_xlabel("true (count)", fontsize=10)
    axes.set_ylabel("predicted", fontsize=10)
    axes.set_title("Confusion (confidence 0.25, IoU 0.45)", fontsize=11, loc="left")
    if counted:
        for row, column in np.argwhere(confusion > 0):
            ink = "white" if part[row, column] > 0.35 else INK
            text = f"{part[row, column]:.2f}\n{confusion[row, column]:,}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
    else:
        edges = np.arange(-0.5, sides)
        for draw in (axes.hlines, axes.vlines):  # thinner in small cells, which they would cover
            draw(edges, edges[0], edges[-1], color=GRID, linewidth=0.4 * size / 7)
        _write_list(figure, confusion, part, names, 1 - (right_in - 1.1) / width_in, 1 - top_in / height_in)
    bar = figure.add_axes(((left_in + matrix_in + 0.15) / width_in, below, 0.15 / width_in, high))
    figure.colorbar(ScalarMappable(norm, colours), cax=bar, ticks=[0, 0.05, 0.25, 0.5, 1])
    bar.tick_params(labelsize=8)
    bar.set_ylabel("fraction of its column", fontsize=8)
    return figure


def _write_list(
    figure: Figure, confusion: _Ints, part: _Floats, names: Sequence[str], left: float, top: float
) -> None:
    """The classes most often taken for others, by the part of the annotations of a class."""
    among = part[:-1, :-1].copy()
    np.fill_diagonal(among, 0.0)
    order = np.argsort(among, axis=None)[::-1][:_LISTED]
    lines = ["most confused, by fraction of the true class", ""]
    for row, column in zip(*np.unravel_index(order, among.shape), strict=True):
        if among[row, column] > 0:
            counts = f"{among[row, column]:.2f} ({confusion[row, column]:,})"
            lines.append(f"{counts}  {names[column]} as {names[row]}")
    figure.text(left, top, "\n".join(lines), va="top", fontsize=8, color=INK, linespacing=1.5)


def _draw_classes(
    axes: Axes,
    x: _Floats,
    rows: _Floats,
    rank: _Floats,
    class_names: Sequence[str],
    mean_of_rank: bool = False,
) -> None:
    """Lines of the classes (C, X) with annotations, the named ones with their rank (C,), and the mean."""
    known = np.flatnonzero(~np.isnan(rank))
    named = known[np.argsort(-rank[known], kind="stable")]  # best first
    if len(known) > _COLOURED:
        named = np.concatenate((named[:_EXTREMES], named[-_EXTREMES:]))
        others = axes.plot(x, rows[np.setdiff1d(known, named)].T, color=PALE, linewidth=0.6)
        for line in others:  # as pixels, also within an SVG, which hundreds of lines would make large
            line.set(rasterized=True, antialiased=False)
    names = printable(class_names, _LONGEST_NAME)
    for place, label in enumerate(named):
        text = f"{names[label]} {rank[label]:.3f}"
        axes.plot(x, rows[label], color=f"C{place}", linewidth=1.2, label=text)
    if len(known) > 1:
        text = f"all classes {rank[known].mean():.3f}" if mean_of_rank else "all classes"
        axes.plot(x, rows[known].mean(axis=0), color=INK, linewidth=2.5, label=text)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    _draw_grid(axes)


def _write_legend(axes: Axes, title: str) -> None:
    if axes.lines:
        place = (1.02, 1.0)
        axes.legend(
            loc="upper left", bbox_to_anchor=place, frameon=False, fontsize=9, title=title, title_fontsize=9
        )
