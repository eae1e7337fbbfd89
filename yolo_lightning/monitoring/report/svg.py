"""Line charts as SVG, drawn by hand: they take their colours from the page, and need no script."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from .markup import Markup, join, tag

WIDTH, HEIGHT = 420, 250
"""Of a chart, in its own units, which are about px on a phone."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 34
_MOST_DOTS = 40
"""Longer lines are drawn without a dot for each value."""
_MOST_POINTS = 400
"""Longer lines are thinned out; a chart has about as many px."""


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    """(x, y), by rising x or along a curve."""
    colour: str
    """A class of the style sheet: ``train``, ``val``, ``c0`` to ``c9``, ``mute``."""
    is_faint: bool = False
    """Thin, and not in the legend: one of many."""


@dataclass(frozen=True)
class _Frame:
    """From values to places."""

    x: tuple[float, float]
    y: tuple[float, float]
    x_step: float
    y_step: float
    """Between two ticks."""

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            round(_LEFT + across * (WIDTH - _LEFT - _RIGHT), 2),
            round(HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM), 2),
        )


def line_chart(
    lines: Sequence[Line],
    x_label: str,
    *,
    unit: bool = False,
    from_zero: bool = False,
    whole_x: bool = False,
    mark: tuple[float, str] | None = None,
) -> Markup:
    """A chart of one or several lines, with a legend; empty where no line has a point.

    Args:
        lines: what is drawn, the last one on top.
        x_label: what x is.
        unit: both axes go from 0 to 1.
        from_zero: the y axis begins at 0.
        whole_x: ticks of x are whole numbers, and the values at each x are told under the pointer.
        mark: an x that a vertical line points out, and what it is.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup()
    frame = _frame(lines, unit, from_zero, whole_x)
    # The axes first: lines lie on the grid.
    parts: list[Markup] = [*_grid(frame, x_label)]
    if mark is not None:
        x, top = frame.place(mark[0], frame.y[1])
        parts.append(tag("line", class_="mark", x1=x, x2=x, y1=top, y2=HEIGHT - _BOTTOM))
        near_end = x > WIDTH * 0.7
        anchor, shift = ("end", -5) if near_end else ("start", 5)
        parts.append(tag("text", mark[1], class_="marked", x=x + shift, y=top + 11, text_anchor=anchor))
    for line in lines:
        parts += _draw(line, frame)
    if whole_x:
        parts += _strips(lines, frame, x_label)
    described = f"{', '.join(line.name for line in lines[:6])} against {x_label}"
    drawing = tag("svg", parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=described)
    return join([legend(lines), drawing])


def legend(lines: Sequence[Line]) -> Markup:
    """Name and colour of each line that is not faint."""
    shown = [line for line in lines if not line.is_faint]
    keys = (tag("span", tag("i", class_=f"key {line.colour}"), line.name) for line in shown)
    return tag("div", keys, class_="legend") if shown else Markup()


def _frame(lines: Sequence[Line], unit: bool, from_zero: bool, whole_x: bool) -> _Frame:
    if unit:
        return _Frame((0.0, 1.0), (0.0, 1.0), 0.2, 0.2)
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    low, high = min(ys), max(ys)
    low = min(low, 0.0) if from_zero else low
    if high - low < 1e-12 * max(1.0, abs(high)):  # a flat line lies in the middle, or on the ground
        margin = abs(high) * 0.5 or 1.0
        low, high = (low if from_zero and low == 0 else low - margin), high + margin
    step = tick_step(high - low, 4)
    left, right = min(xs), max(xs)
    if left == right:
        left, right = left - 0.5, right + 0.5
    if whole_x:
        left, right = left - 0.02 * (right - left), right + 0.02 * (right - left)
    bottom, top = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    x_step = tick_step(right - left, 6)
    return _Frame((left, right), (bottom, top), max(1.0, round(x_step)) if whole_x else x_step, step)


def _grid(frame: _Frame, x_label: str) -> list[Markup]:
    parts = []
    for value in ticks(*frame.y, frame.y_step):
        x, y = frame.place(frame.x[0], value)
        parts.append(tag("line", class_="grid", x1=x, x2=WIDTH - _RIGHT, y1=y, y2=y))
        parts.append(tag("text", tick_text(value, frame.y_step), x=x - 6, y=y + 3.5, text_anchor="end"))
    for value in ticks(*frame.x, frame.x_step):
        x, y = frame.place(value, frame.y[0])
        parts.append(tag("line", class_="tick", x1=x, x2=x, y1=y, y2=y + 4))
        parts.append(tag("text", tick_text(value, frame.x_step), x=x, y=y + 16, text_anchor="middle"))
    x, y = WIDTH - _RIGHT, HEIGHT - 3
    parts.append(tag("text", x_label, class_="axis", x=x, y=y, text_anchor="end"))
    return parts


def _draw(line: Line, frame: _Frame) -> list[Markup]:
    points = _thinned(line.points)
    places = [frame.place(x, y) for x, y in points]
    faint = " faint" if line.is_faint else ""
    written = " ".join(f"{x:g},{y:g}" for x, y in places)
    parts = [tag("polyline", class_=f"line {line.colour}{faint}", points=written)]
    if len(places) <= _MOST_DOTS and not line.is_faint:
        parts += [tag("circle", class_=f"dot {line.colour}", cx=x, cy=y, r=2.2) for x, y in places]
    return parts


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    if len(points) <= _MOST_POINTS:
        return points
    step = (len(points) - 1) / (_MOST_POINTS - 1)
    return [points[round(i * step)] for i in range(_MOST_POINTS)]


def _strips(lines: Sequence[Line], frame: _Frame, x_label: str) -> list[Markup]:
    """An invisible strip around each x, that tells the values there."""
    values: dict[float, list[str]] = {}
    for line in lines:
        for x, y in _thinned(line.points):
            values.setdefault(x, []).append(f"{line.name} {y:.5g}")
    xs = sorted(values)
    centres = [frame.place(x, frame.y[0])[0] for x in xs]
    half = min((b - a for a, b in itertools.pairwise(centres)), default=24) / 2
    return [
        tag(
            "rect", tag("title", f"{x_label} {x:g}\n" + "\n".join(values[x])), class_="strip",
            x=centre - half, y=_TOP, width=2 * half, height=HEIGHT - _TOP - _BOTTOM,
        )
        for x, centre in zip(xs, centres, strict=True)
    ]  # fmt: skip


def tick_step(span: float, about: int) -> float:
    """A step of 1, 2 or 5 times a power of ten that divides a span into about so many parts."""
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.75) * power


def ticks(low: float, high: float, step: float) -> list[float]:
    """The multiples of a step within a range."""
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick_text(value: float, step: float) -> str:
    """A tick with the digits that tell it from its neighbours."""
    if abs(value) < step / 2:
        return "0"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if digits > 5:
        return f"{value:.1e}"
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.{digits}f}"
