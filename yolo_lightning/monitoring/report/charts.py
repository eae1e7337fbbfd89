"""The plots and pictures of a page, as data URIs: images that are part of the page itself."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from mimetypes import guess_type
from typing import TYPE_CHECKING, Any, NamedTuple

from ..metric_names import MAP, MAP_50, METRIC_TITLES, SPEED, loss_title
from ..pictures.plots import plot_curves, plot_evaluation, to_svg
from .read import Row, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOSS = "_loss"
_PLOTS = {
    "precision_recall": ("Precision against recall", ""),
    "f1": ("F1, precision and recall against confidence", ""),
    "confusion": (
        "Confusion matrix",
        "A column is the true class, a row the predicted class. The background's row counts missed "
        "objects, its column false detections. Colour is the fraction of the column.",
    ),
}
"""Title and caption of the plots of the best epoch."""
_PICTURES = {
    "augmented.jpg": ("Augmented training images", "Images as the network sees them, with their boxes."),
    "predictions.jpg": (
        "Annotations and predictions",
        "Validation images: annotations left, detections right.",
    ),
    "worst.jpg": ("Worst mistakes", "False detections and missed objects."),
    "labels.png": ("Labels", "Number of each class, sizes and places of the boxes."),
}
"""Title and caption by the name of the file."""
Points = Sequence[tuple[float, float]]


class Chart(NamedTuple):
    """An image of a page."""

    title: str
    source: str
    """Its data URI."""
    caption: str = ""


def training_curves(run: Run) -> list[Chart]:
    """mAP, losses of training and validation, learning rates and speed, each by epoch."""
    rows, best = run.rows, int(run.best["epoch"]) + 1
    mark = (best, f"best: {best}") if len(rows) > 1 else None
    precisions = [(METRIC_TITLES[name], _points(rows, name)) for name in (MAP, MAP_50)]
    charts = _chart("Mean average precision", precisions, has_legend=True, mark=mark)
    for part in _loss_parts(rows):
        splits = (("training", "train"), ("validation", "val"))
        losses = [(name, _points(rows, f"{split}/{part}{_LOSS}")) for name, split in splits]
        charts += _chart(loss_title(part).capitalize(), losses, has_legend=True, from_zero=False)
    rates = sorted({name for row in rows for name in row if name.startswith("lr/")})
    lines = [(name.removeprefix("lr/"), _points(rows, name)) for name in rates]
    charts += _chart("Learning rate at the end of the epoch", lines, has_legend=True)
    return charts + _chart("Images per second", [("images/s", _points(rows, SPEED))])


def comparison_curves(runs: Sequence[Run], names: Sequence[str]) -> list[Chart]:
    """Curves of several runs, laid over each other; the nth run has the nth line colour."""

    def overlay(title: str, metric: str, from_zero: bool = True, x: str = "epoch") -> list[Chart]:
        lines = [(name, _points(run.rows, metric, x)) for run, name in zip(runs, names, strict=True)]
        return _chart(title, lines, x, from_zero=from_zero)

    title = METRIC_TITLES[MAP]
    charts = overlay(title, MAP) + overlay(f"{title} against time", MAP, x="minutes")
    charts += overlay(METRIC_TITLES[MAP_50], MAP_50)
    parts = dict.fromkeys(part for run in runs for part in _loss_parts(run.rows))
    for split, name in (("val", "validation"), ("train", "training")):
        for part in parts:
            title = f"{loss_title(part).capitalize()}, {name}"
            charts += overlay(title, f"{split}/{part}{_LOSS}", from_zero=False)
    return charts + overlay("Images per second", SPEED)


def evaluation_plots(run: Run) -> list[Chart]:
    """Precision, recall, F1 and confusion of the best epoch; none without ``evaluation.json``."""
    if not run.evaluation:
        return []
    figures = plot_evaluation(run.evaluation)
    return [Chart(title, _svg_uri(figures[name]), caption) for name, (title, caption) in _PLOTS.items()]


def pictures(run: Run) -> list[Chart]:
    """The files of ``pictures/``."""
    return [
        Chart(_PICTURES[name][0], data_uri(contents, str(guess_type(name)[0])), _PICTURES[name][1])
        for name, contents in run.pictures.items()
    ]


def _points(rows: Sequence[Row], metric: str, x: str = "epoch") -> Points:
    """A metric by epoch from 1, or by minutes; COCO's -1 means that there was nothing to find."""
    known = [row for row in rows if row.get(metric, -1.0) >= 0]
    if x == "minutes":
        return [(row["wall_seconds"] / 60, row[metric]) for row in known if "wall_seconds" in row]
    return [(row["epoch"] + 1, row[metric]) for row in known]


def _chart(
    title: str, lines: Sequence[tuple[str, Points]], x_label: str = "epoch", **options: Any
) -> list[Chart]:
    """One plot of named lines, with options of ``plot_curves``; none if no line has a point."""
    if not any(points for _, points in lines):
        return []
    return [Chart(title, _svg_uri(plot_curves(lines, x_label, **options)))]


def _loss_parts(rows: Sequence[Row]) -> list[str]:
    """Names of the parts of the loss, such as ``box``, in the order of their columns."""
    names = [name for row in rows for name in row if name.endswith(_LOSS) and name.count("/") == 1]
    return list(dict.fromkeys(name.removesuffix(_LOSS).partition("/")[2] for name in names))


def _svg_uri(figure: Figure) -> str:
    return data_uri(to_svg(figure).encode(), "image/svg+xml")


def data_uri(contents: bytes, media_type: str) -> str:
    """An image as a part of a page."""
    return f"data:{media_type};base64,{base64.b64encode(contents).decode()}"
