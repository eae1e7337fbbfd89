"""The plots and pictures of a page, as data URIs: images that are part of the page itself."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..metric_names import MAP, MAP_50, METRIC_TITLES, SPEED, loss_title
from ..pictures.figures import to_svg
from ..pictures.plots import (
    Curve,
    line_colour,
    plot_confidence,
    plot_confusion,
    plot_curves,
    plot_precision_recall,
)
from .read import Row, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOSS = "_loss"
_PICTURES = {
    "augmented": ("What the network sees", "Training images after augmentation, with their boxes."),
    "predictions": ("Predictions beside the truth", "Validation images."),
    "worst": ("Worst errors", "False detections and missed objects."),
    "labels": ("The labels", "How many of each class, how large, and where."),
}
"""Title and caption by the name of the file, in the order of the page."""
_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


@dataclass(frozen=True)
class Chart:
    """An image of a page."""

    title: str
    source: str
    """Its data URI."""
    caption: str = ""


def training_curves(run: Run) -> list[Chart]:
    """mAP, losses of training and validation, learning rates and speed, each by epoch."""
    rows, best = run.rows, int(run.best["epoch"]) + 1
    mark = (best, f"best: {best}") if len(rows) > 1 else None
    average_precision = {METRIC_TITLES[name]: name for name in (MAP, MAP_50)}
    rates = sorted({name for row in rows for name in row if name.startswith("lr/")})
    charts = [_by_epoch("Mean average precision", rows, average_precision, mark=mark)]
    for part in _loss_parts(rows):
        names = {"training": f"train/{part}{_LOSS}", "validation": f"val/{part}{_LOSS}"}
        charts.append(_by_epoch(loss_title(part).capitalize(), rows, names, from_zero=False))
    charts.append(
        _by_epoch("Learning rate at the end of the epoch", rows, {n.removeprefix("lr/"): n for n in rates})
    )
    charts.append(_by_epoch("Images a second", rows, {"images/s": SPEED}))
    return [chart for chart in charts if chart]


def comparison_curves(runs: Sequence[Run], names: Sequence[str]) -> list[Chart]:
    """Curves of several runs, laid over each other; the nth run has the nth line colour."""

    def overlaid(title: str, metric: str, from_zero: bool = True) -> Chart | None:
        return _chart(title, names, [_points(run.rows, metric) for run in runs], from_zero=from_zero)

    minutes = [
        [(row["wall_seconds"] / 60, row[MAP]) for row in run.rows
         if "wall_seconds" in row and row.get(MAP, -1.0) >= 0]
        for run in runs
    ]  # fmt: skip
    title = METRIC_TITLES[MAP]
    charts = [overlaid(title, MAP), _chart(f"{title} against time", names, minutes, x_label="minutes")]
    charts.append(overlaid(METRIC_TITLES[MAP_50], MAP_50))
    parts = dict.fromkeys(part for run in runs for part in _loss_parts(run.rows))
    for split, long in (("val", "validation"), ("train", "training")):
        for part in parts:
            title = f"{loss_title(part).capitalize()}, {long}"
            charts.append(overlaid(title, f"{split}/{part}{_LOSS}", from_zero=False))
    charts.append(overlaid("Images a second", SPEED))
    return [chart for chart in charts if chart]


def evaluation_plots(run: Run) -> list[Chart]:
    """Precision, recall, F1 and confusion of the best epoch; none without ``evaluation.json``."""
    found = run.evaluation
    if found is None:
        return []
    names = found.class_names
    confidence = plot_confidence(found.confidence, found.curves, names, found.best_confidence, found.best_f1)
    precision_recall = plot_precision_recall(found.pr_recall, found.pr_precision, found.ap_50, names)
    return [
        Chart("Precision against recall", _svg_uri(precision_recall)),
        Chart("F1, precision and recall against confidence", _svg_uri(confidence)),
        Chart(
            "Confusion matrix",
            _svg_uri(plot_confusion(found.confusion, names)),
            "A column is the true class, a row the predicted class. The background's row counts missed "
            "objects, its column false detections. Colour is the part of the column.",
        ),
    ]


def pictures(run: Run) -> list[Chart]:
    """The files of ``pictures/``."""
    order = list(_PICTURES)
    found = sorted(run.pictures, key=lambda p: order.index(p.stem) if p.stem in order else len(order))
    charts = []
    for path in found:
        title, caption = _PICTURES.get(path.stem, (path.stem, ""))
        charts.append(Chart(title, _uri(path.read_bytes(), _TYPES[path.suffix]), caption))
    return charts


def _by_epoch(
    title: str,
    rows: Sequence[Row],
    metrics: dict[str, str],
    *,
    from_zero: bool = True,
    mark: tuple[float, str] | None = None,
) -> Chart | None:
    points = [_points(rows, metric) for metric in metrics.values()]
    return _chart(title, list(metrics), points, from_zero=from_zero, mark=mark, has_legend=True)


def _points(rows: Sequence[Row], metric: str) -> list[tuple[float, float]]:
    """(epoch from 1, value); COCO's -1 means that there was nothing to find."""
    return [(row["epoch"] + 1, row[metric]) for row in rows if row.get(metric, -1.0) >= 0]


def _chart(
    title: str,
    names: Sequence[str],
    points: Sequence[Sequence[tuple[float, float]]],
    *,
    x_label: str = "epoch",
    from_zero: bool = True,
    mark: tuple[float, str] | None = None,
    has_legend: bool = False,
) -> Chart | None:
    """A plot of one line a name, None if no line has a point."""
    curves = [
        Curve(name, line, line_colour(i))
        for i, (name, line) in enumerate(zip(names, points, strict=True))
        if line
    ]
    if not curves:
        return None
    figure = plot_curves(curves, x_label, from_zero=from_zero, has_legend=has_legend, mark=mark)
    return Chart(title, _svg_uri(figure))


def _loss_parts(rows: Sequence[Row]) -> list[str]:
    """Names of the parts of the loss, such as ``box``, in the order of their columns."""
    names = [name for row in rows for name in row if name.endswith(_LOSS) and name.count("/") == 1]
    return list(dict.fromkeys(name.removesuffix(_LOSS).partition("/")[2] for name in names))


def _svg_uri(figure: Figure) -> str:
    return _uri(to_svg(figure).encode(), "image/svg+xml")


def _uri(contents: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(contents).decode()}"
