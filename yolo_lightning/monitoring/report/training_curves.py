"""The course of training, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence

from .html import Section, card, columns
from .markup import Markup
from .outcome import MAP, MAP_50, SPEED
from .read import Row, Run
from .svg import Line, line_chart

EPOCH = "epoch"
_LOSS = "_loss"
_PARTS = {"box": "Box", "obj": "Objectness", "cls": "Class", "dfl": "Box distribution"}


def section(run: Run) -> Section:
    """Losses of training and validation together, mAP, learning rates, and speed."""
    rows = run.rows
    best = (run.best["epoch"] + 1, f"best: {int(run.best['epoch']) + 1}") if len(rows) > 1 else None
    charts = [_losses(rows, part) for part in loss_parts(rows)]
    of_map = [line(rows, MAP_50, "mAP 50", "c2"), line(rows, MAP, "mAP 50–95", "good")]
    charts.insert(0, card_of("Mean average precision", of_map, from_zero=True, mark=best))
    rates = sorted({name for row in rows for name in row if name.startswith("lr/")})
    lines = [line(rows, name, name.removeprefix("lr/"), f"c{i % 10}") for i, name in enumerate(rates)]
    charts.append(card_of("Learning rate at the end of the epoch", lines, from_zero=True))
    charts.append(card_of("Images a second", [line(rows, SPEED, "images/s", "train")], from_zero=True))
    return Section("curves", "Curves", columns(charts))


def line(rows: Sequence[Row], name: str, label: str, colour: str) -> Line:
    """A metric by epoch, counted from 1; below zero COCO says that there was nothing to find."""
    points = [(row[EPOCH] + 1, row[name]) for row in rows if row.get(name, -1.0) >= 0]
    return Line(label, points, colour)


def card_of(
    title: str, lines: Sequence[Line], *, from_zero: bool = False, mark: tuple[float, str] | None = None
) -> Markup:
    """A chart by epoch; empty where there is nothing to show."""
    chart = line_chart(lines, EPOCH, from_zero=from_zero, whole_x=True, mark=mark)
    return card(title, chart) if chart else Markup()


def loss_parts(rows: Sequence[Row]) -> list[str]:
    """Names of the parts of the loss, such as ``box``, in the order of their columns."""
    names = [name for row in rows for name in row if name.endswith(_LOSS) and name.count("/") == 1]
    return list(dict.fromkeys(name.removesuffix(_LOSS).partition("/")[2] for name in names))


def loss_title(part: str) -> str:
    """A part of the loss in words."""
    return f"{_PARTS.get(part, part)} loss"


def _losses(rows: Sequence[Row], part: str) -> Markup:
    lines = [
        line(rows, f"train/{part}{_LOSS}", "training", "train"),
        line(rows, f"val/{part}{_LOSS}", "validation", "val"),
    ]
    return card_of(loss_title(part), lines)
