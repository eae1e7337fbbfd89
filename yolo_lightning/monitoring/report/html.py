"""What pages are made of: a document, sections, tables, tiles, and how figures are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...system import text
from .markup import Child, Markup, join, tag

_STYLE = Path(__file__).with_name("style.css")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Browsers are told that the page needs nothing from anywhere, and runs nothing."""
NOTHING = "–"
"""Where there is no figure."""


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading, to which the list at the top leads."""

    key: str
    title: str
    body: Markup
    lead: Child = None
    """A sentence below the heading."""


def document(title: str, header: Markup, sections: Sequence[Section], footer: Child) -> str:
    """A whole page in one file: nothing is loaded, nothing is run.

    Args:
        title: for the window.
        header: what stands above the sections.
        sections: those without a body are left out.
        footer: small, at the end.
    """
    shown = [section for section in sections if section.body]
    contents = tag("nav", (tag("a", section.title, href=f"#{section.key}") for section in shown))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        Markup('<link rel="icon" href="data:,"/>'),
        tag("title", title),
        Markup(f"<style>{_STYLE.read_text(encoding='utf-8')}</style>"),
    )
    parts = (
        tag(
            "section",
            tag("h2", section.title),
            tag("p", section.lead, class_="lead") if section.lead else None,
            section.body,
            id=section.key,
        )
        for section in shown
    )
    body = tag("body", tag("main", tag("header", header), contents, parts, tag("footer", footer)))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def tile(label: str, value: str, note: Child = None, colour: str = "") -> Markup:
    """A figure that is seen from afar."""
    return tag(
        "div",
        tag("div", label, class_="label"),
        tag("div", value, class_="value"),
        tag("div", note, class_="note") if note else None,
        class_=f"tile {colour}".strip(),
    )


def card(title: str, body: Child, note: Child = None) -> Markup:
    """A chart or picture with what it shows."""
    return tag("figure", tag("figcaption", title), body, tag("p", note, class_="note") if note else None)


def table(
    head: Sequence[Child],
    rows: Iterable[Sequence[Child]],
    foot: Sequence[Child] | None = None,
    kind: str = "",
) -> Markup:
    """A table whose first column names the rows; it scrolls by itself where the page is narrow."""

    def row(cells: Sequence[Child]) -> Markup:
        return tag("tr", tag("th", cells[0], scope="row"), (tag("td", cell) for cell in cells[1:]))

    parts = [
        tag("thead", tag("tr", (tag("th", cell, scope="col") for cell in head))) if head else None,
        tag("tbody", (row(cells) for cells in rows)),
        tag("tfoot", row(foot)) if foot else None,
    ]
    return tag("div", tag("table", parts, class_=kind or None), class_="scroll")


def details(summary: str, body: Child) -> Markup:
    """What is folded away until it is asked for."""
    return tag("details", tag("summary", summary), body)


def bar(fraction: float, colour: str = "good") -> Markup:
    """A short bar within a table, 0..1 of its cell."""
    width = f"width:{100 * min(max(fraction, 0.0), 1.0):.1f}%"
    return tag("span", tag("span", class_=colour, style=width), class_="bar")


def number(value: object, form: str = ".3f") -> str:
    """A figure; a dash where there is none, and for COCO's -1, which says that there was nothing to find."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return NOTHING
    return format(value, form) if math.isfinite(value) and value >= 0 else NOTHING


def duration(seconds: object) -> str:
    """A duration in words; a dash where there is none."""
    if not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
        return NOTHING
    return text.duration(seconds)


def columns(parts: Iterable[Child]) -> Markup:
    """Cards beside each other, as many as there is room for."""
    shown = [part for part in parts if part]
    return tag("div", shown, class_="cards") if shown else Markup()


def both(*parts: Child) -> Markup:
    """Several pieces below each other."""
    return join(parts)
