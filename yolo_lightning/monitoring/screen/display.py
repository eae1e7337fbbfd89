"""Progress bars as lines of text, and their displays for log files and notebooks."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ...system.text import clock

INTERVAL_S = 0.25
"""Least time between two drawings of the bars."""
_LEAST, _MOST = 8, 40
"""Width of the bar itself, in characters."""
_NOTEBOOK_WIDTH = 110
"""Characters that fit into a cell."""


@dataclass(eq=False)
class Bar:
    """A progress bar with notes: ``epoch 2/30  43% ━━━━──── 12/28  0:41  note  note``."""

    label: str
    total: float
    """Value of ``done`` at the end; infinite if it is unknown."""
    began_s: float
    """Start, by the clock that is also given for drawing."""
    done: int = 0
    notes: Sequence[str] = ()
    """Most important first; a narrow terminal leaves out the last ones."""

    def pieces(self, width: int, now: float, ascii_only: bool = False) -> list[tuple[str, str]]:
        """Return texts of the line, of at most ``width`` characters together, and their Rich styles."""
        full, empty = ("#", ".") if ascii_only else ("━", "─")
        part = min(self.done / self.total, 1.0) if self.total else 0.0
        head, counted, least = f"{self.label} {part:4.0%} ", f"{self.done}/{self.total}", _LEAST
        if math.isinf(self.total):
            head, counted, least = f"{self.label} ", f"{self.done}", 0
        tail = f" {counted}  {clock(now - self.began_s)}"
        for note in self.notes:
            if len(head) + least + len(tail) + 2 + len(note) > width:
                break
            tail += f"  {note}"
        room = min(width - len(head) - len(tail), _MOST)
        if room < _LEAST or math.isinf(self.total):
            return [((head + tail.lstrip())[:width], "")]
        filled = int(part * room)
        return [(head, ""), (full * filled, "cyan"), (empty * (room - filled), "dim"), (tail, "")]


class Display:
    """Display of a log file: prints lines, and keeps bars without showing them."""

    is_live = False
    """The display shows bars."""

    def __init__(self) -> None:
        self.bars: list[Bar] = []
        self.now_s = -math.inf
        """Time of the last drawing."""

    @property
    def width(self) -> int | None:
        """Characters in a line; None for no limit."""
        return None

    def open(self, label: str, total: float, now: float) -> Bar:
        """Add a bar below the others, at time ``now`` in s, by one clock for all bars."""
        bar = Bar(label, total, now)
        self.bars.append(bar)
        self.draw(now)
        return bar

    def close(self, *bars: Bar) -> None:
        """Remove bars; those that were removed before are ignored."""
        before = len(self.bars)
        self.bars = [bar for bar in self.bars if bar not in bars]
        if len(self.bars) < before:
            self.show()

    def is_due(self, now: float) -> bool:
        """True if it is time to draw; cheap enough to ask after every batch."""
        return self.is_live and now - self.now_s >= INTERVAL_S

    def draw(self, now: float) -> None:
        """Show the current state of the bars."""
        self.now_s = now
        self.show()

    def show(self) -> None:
        """Update the screen; an error ends the bars, not the run."""
        if self.is_live:
            try:
                self._show()
            except Exception as error:  # the terminal is gone, or cannot show a character
                self.give_up(error)

    def _show(self) -> None:
        """Update the screen; without bars it looks as if there had been none."""

    def print(self, text: str, style: str = "") -> None:
        """Print whole lines above the bars; only terminals use the style."""
        with suppress(OSError):  # a full disk or a closed pipe must not end the run
            try:
                print(text, flush=True)
            except UnicodeEncodeError:
                encoding = sys.stdout.encoding or "ascii"
                print(text.encode(encoding, "replace").decode(encoding), flush=True)

    def give_up(self, error: Exception) -> None:
        """Stop showing bars."""
        self.is_live = False
        warnings.warn(f"progress is not shown any more ({type(error).__name__}: {error})", stacklevel=3)


class NotebookDisplay(Display):
    """Bars in one output of a cell, which is updated in place; lines are printed below it."""

    is_live = True
    _handle: Any = None

    def _show(self) -> None:
        from IPython.display import display  # a kernel has it

        lines = ["".join(text for text, _ in bar.pieces(_NOTEBOOK_WIDTH, self.now_s)) for bar in self.bars]
        data = {"text/plain": "\n".join(lines)}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
