"""Matplotlib figures without pyplot, so that any thread may draw them: as pixels, and as SVG."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from .draw_boxes import Pixels, legible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
