"""How well the best epoch finds: precision, recall, F1, and what it takes for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .html import Section, both, card, columns, table
from .markup import Child, Markup, tag
from .read import Run
from .svg import Line, line_chart

_MOST_COLOURS = 10
"""More classes are thin lines without names, with their mean."""
_MOST_CELLS = 26
"""Rows of the largest confusion matrix that is drawn; beyond, the largest confusions are listed."""
_LISTED = 20
_BACKGROUND = "background"


def section(run: Run) -> Section:
    """Curves and confusion matrix of ``evaluation.json``; empty without it."""
    found = run.evaluation
    try:
        body = both(_curves(found), _confusion(found)) if found else Markup()
        lead = f"Of the validation after epoch {int(found['epoch']) + 1}." if found else None
    except (KeyError, IndexError, TypeError, ValueError):
        body = tag("p", "evaluation.json is not as it should be, so that there is nothing to draw.")
        lead = None
    return Section("evaluation", "Precision, recall and confusion", body, lead)


def _curves(found: dict[str, Any]) -> Markup:
    names, confidence = found["class_names"], found["confidence"]
    against = [(found[key], title) for key, title in
               (("f1", "F1 against confidence"), ("precision", "Precision against confidence"),
                ("recall", "Recall against confidence"))]  # fmt: skip
    best = found.get("best_f1") or {}
    mark = (best["confidence"], f"F1 {best['f1']:.2f} at {best['confidence']:.2f}") if best else None
    recall_chart = line_chart(_lines(names, found["pr_recall"], found["pr_precision"]), "recall", unit=True)
    charts = [card("Precision against recall (IoU 0.5)", recall_chart)]
    for place, (curves, title) in enumerate(against):
        chart = line_chart(
            _lines(names, confidence, curves), "confidence", unit=True, mark=None if place else mark
        )
        charts.append(card(title, chart))
    return columns(charts)


def _lines(names: Sequence[Any], xs: Sequence[float], curves: Sequence[Sequence[float]]) -> list[Line]:
    many = len(names) > _MOST_COLOURS
    lines = [
        Line(str(name), _known(xs, ys), "mute" if many else f"c{i % 10}", is_faint=many)
        for i, (name, ys) in enumerate(zip(names, curves, strict=True))
    ]
    known = [ys for line, ys in zip(lines, curves, strict=True) if line.points]
    if len(known) > 1:
        mean = [(x, sum(values) / len(values)) for x, *values in zip(xs, *known, strict=True)]
        lines.append(Line("mean of all classes", mean, "mean"))
    return lines


def _known(xs: Sequence[float], ys: Sequence[float | None]) -> list[tuple[float, float]]:
    """The points of a class; none for one that has nothing to find."""
    points = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None]
    return points if len(points) == len(xs) else []


def _confusion(found: dict[str, Any]) -> Markup:
    names = [*map(str, found["class_names"]), _BACKGROUND]
    counts = [[float(count) for count in row] for row in found["confusion"]]
    if len(counts) != len(names) or any(len(row) != len(names) for row in counts):
        raise ValueError("the confusion matrix does not have a row and a column for each class")
    if len(names) > _MOST_CELLS:
        return both(tag("h3", "What is taken for what"), _list(names, counts))
    note = (
        "A column is what an object is, a row what it was taken for. In the background's row are objects "
        "that were missed, in its column what was found where nothing is. Colour is the part of a column."
    )
    return both(tag("h3", "Confusion matrix"), _matrix(names, counts), tag("p", note, class_="note"))


def _matrix(names: Sequence[str], counts: Sequence[Sequence[float]]) -> Markup:
    totals = [sum(column) for column in zip(*counts, strict=True)]

    def cell(row: int, column: int) -> Markup:
        count, total = counts[row][column], totals[column]
        part = count / total if total else 0.0
        kind = "hit" if row == column else "miss"
        title = f"{names[column]}, taken for {names[row]}: {count:g} of {total:g}"
        dark = " dark" if part > 0.55 else ""
        text = f"{count:g}" if count else ""
        return tag("td", text, class_=kind + dark, style=f"--part:{part:.3f}", title=title)

    head = tag("tr", tag("th"), (tag("th", tag("span", name), scope="col") for name in names))
    rows = (
        tag("tr", tag("th", name, scope="row"), (cell(row, column) for column in range(len(names))))
        for row, name in enumerate(names)
    )
    grid = tag("table", tag("thead", head), tag("tbody", rows), class_="matrix")
    return tag("div", grid, class_="scroll")


def _list(names: Sequence[str], counts: Sequence[Sequence[float]]) -> Markup:
    pairs = [
        (counts[row][column], names[column], names[row])
        for row in range(len(names))
        for column in range(len(names))
        if row != column and counts[row][column] > 0
    ]
    pairs.sort(key=lambda pair: -pair[0])
    rows: list[Sequence[Child]] = [[true, taken, f"{count:g}"] for count, true, taken in pairs[:_LISTED]]
    return table(["is", "taken for", "times"], rows, kind="figures")
