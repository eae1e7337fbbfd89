"""HTML and SVG as nested calls, in which every text is escaped unless it is markup itself."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias

Child: TypeAlias = "str | int | float | Iterable[Child] | None"
"""What an element may hold: text, a number, nothing, or several of them."""

_VOID = {"br", "img", "meta", "circle", "line", "path", "polyline", "rect"}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: Child, **attributes: str | int | float | None) -> Markup:
    """An element.

    Args:
        name: such as ``td``.
        children: text is escaped, :class:`Markup` is not; None is left out.
        attributes: ``class_`` is written class, and ``stroke_width`` stroke-width; None is left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID and not children:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """One piece of markup of several."""
    return Markup("".join(map(_child, children)))


def _child(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, (str, int, float)):
        return html.escape(_text(child))
    return join(child)


def _text(value: str | int | float) -> str:
    """Numbers with as many digits as a drawing needs."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
