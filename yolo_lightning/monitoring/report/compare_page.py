"""Runs side by side as a page, with their curves laid over each other."""

from __future__ import annotations

from collections.abc import Sequence

from .compare import Comparison, Line, compare_runs
from .html import Section, both, card, columns, document, table
from .markup import Child, Markup, tag
from .next_steps import footnote
from .outcome import MAP, MAP_50, SPEED
from .read import Run
from .svg import Line as Curve
from .svg import line_chart
from .training_curves import card_of, line, loss_parts, loss_title


def comparison_page(runs: Sequence[Run]) -> str:
    """The comparison as HTML that needs nothing else."""
    compared = compare_runs(runs)
    keys = [tag("span", tag("i", class_=f"key {_colour(i)}"), name) for i, name in enumerate(compared.names)]
    header = both(
        tag("p", "yolo-lightning", class_="brand"),
        tag("h1", f"{len(runs)} runs side by side"),
        tag("p", keys, class_="legend"),
    )
    sections = [
        Section("metrics", "What came out", _figures(compared.names, compared.metrics), "Of the best epoch."),
        Section("options", "What was set differently", _options(compared)),
        Section("curves", "Curves", _curves(runs, compared.names)),
        Section("speed", "Speed", _figures(compared.names, compared.speed)),
        Section("machine", "Hardware and versions", _differences(compared.names, compared.machine)),
    ]
    places = (tag("p", str(run.directory)) for run in runs)
    return document("Comparison – yolo-lightning", header, sections, both(tag("p", footnote()), places))


def _figures(names: Sequence[str], lines: Sequence[Line]) -> Markup:
    rows: list[Sequence[Child]] = [
        [
            line.name,
            *(
                tag("strong", text, class_="best") if best else text
                for text, best in zip(line.texts, line.best, strict=True)
            ),
        ]
        for line in lines
    ]
    return table(["", *names], rows, kind="figures") if rows else Markup()


def _options(compared: Comparison) -> Markup:
    return _differences(compared.names, compared.options) or tag("p", "No option differs.", class_="note")


def _differences(names: Sequence[str], differing: Sequence[tuple[str, list[str]]]) -> Markup:
    rows: list[Sequence[Child]] = [[tag("code", name), *values] for name, values in differing]
    return table(["", *names], rows, kind="facts options") if rows else Markup()


def _curves(runs: Sequence[Run], names: Sequence[str]) -> Markup:
    named = list(zip(runs, names, strict=True))

    def overlaid(title: str, metric: str, from_zero: bool = True) -> Markup:
        lines = [line(run.rows, metric, name, _colour(i)) for i, (run, name) in enumerate(named)]
        return card_of(title, lines, from_zero=from_zero)

    parts = list(dict.fromkeys(part for run in runs for part in loss_parts(run.rows)))
    return columns(
        [
            overlaid("mAP 50–95", MAP),
            _against_time(runs, names),
            overlaid("mAP 50", MAP_50),
            *(overlaid(f"{loss_title(part)}, validation", f"val/{part}_loss", False) for part in parts),
            *(overlaid(f"{loss_title(part)}, training", f"train/{part}_loss", False) for part in parts),
            overlaid("Images a second", SPEED),
        ]
    )


def _against_time(runs: Sequence[Run], names: Sequence[str]) -> Markup:
    """What a run had reached after so many minutes, which is what a wait costs."""
    named = zip(runs, names, strict=True)
    lines = [Curve(name, _reached(run), _colour(i)) for i, (run, name) in enumerate(named)]
    chart = line_chart(lines, "minutes", from_zero=True)
    return card("mAP 50–95 against time", chart) if chart else Markup()


def _reached(run: Run) -> list[tuple[float, float]]:
    """(minutes, mAP) of each epoch that was validated."""
    known = (row for row in run.rows if "wall_seconds" in row and row.get(MAP, -1.0) >= 0)
    return [(row["wall_seconds"] / 60, row[MAP]) for row in known]


def _colour(run: int) -> str:
    return f"c{run % 10}"
