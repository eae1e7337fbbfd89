"""Bars as lines of text, and the display of a log file, which shows none."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

from ...system.text import clock

INTERVAL_S = 0.25
"""Bars are drawn at most this often."""
_LEAST, _MOST = 8, 40
"""Characters of the bar itself."""

Piece = tuple[str, str]
"""Text, and its style as Rich names it."""
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass
class Bar:
    """One line that changes: ``epoch 2/30  43% ━━━━──── 12/28  0:41  note  note``."""

    label: str
    total: int | None
    """None where it is not known how much there is to do."""
    began_s: float
    """By the clock that also says when it is drawn."""
    done: int = 0
    notes: Sequence[str] = ()
    """The most important first: those that a narrow terminal has no room for are left out."""

    def pieces(self, width: int, now: float, ascii_only: bool = False) -> list[Piece]:
        """The line, in at most ``width`` characters.

        Args:
            width: of the terminal.
            now: of the clock of ``began_s``, in s.
            ascii_only: whether the terminal knows no other characters.
        """
        full, empty = ("#", ".") if ascii_only else ("━", "─")
        part = min(self.done / self.total, 1.0) if self.total else 0.0
        counted = f"{self.done}" if self.total is None else f"{self.done}/{self.total}"
        head = f"{self.label} " if self.total is None else f"{self.label} {part:4.0%} "
        tail = f" {counted}  {clock(now - self.began_s)}"
        least = 0 if self.total is None else _LEAST
        for note in self.notes:
            if len(head) + least + len(tail) + 2 + len(note) > width:
                break
            tail += f"  {note}"
        room = min(width - len(head) - len(tail), _MOST)
        if self.total is None or room < _LEAST:
            return [((head + tail.lstrip())[:width], "")]
        filled = int(part * room)
        return [(head, ""), (full * filled, "cyan"), (empty * (room - filled), "dim"), (tail, "")]


def never_fails(method: Method) -> Method:
    """Let what cannot be drawn end the drawing of a :class:`Display`, and nothing else."""

    @wraps(method)
    def guarded(self: Display, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:  # a terminal that is gone, or that cannot show a character
            self.give_up(error)

    return cast("Method", guarded)


class Display:
    """Prints lines. Bars are kept but not shown: this is the display of a log file."""

    is_live = False
    """Whether it shows bars."""

    def __init__(self) -> None:
        self.bars: list[Bar] = []
        self.now_s = self._drawn_s = -math.inf
        """When the bars are, or were last, drawn."""

    @property
    def width(self) -> int | None:
        """Characters in a line; None where there is no limit."""
        return None

    def open(self, label: str, total: float, now: float) -> Bar:
        """Add a bar, below those that are there.

        Args:
            label: what is done.
            total: how much of it; infinite where that is not known.
            now: of the clock of all bars, in s.
        """
        bar = Bar(label, None if math.isinf(total) else int(total), now)
        self.bars.append(bar)
        self.draw(now)
        return bar

    def close(self, *bars: Bar | None) -> None:
        """Take bars away; None and those that are gone already are passed over."""
        before = len(self.bars)
        self.bars = [bar for bar in self.bars if not any(bar is other for other in bars)]
        if len(self.bars) < before:
            self.show()

    def is_due(self, now: float) -> bool:
        """Whether drawing is worth its while: cheap to ask after every batch."""
        return self.is_live and now - self._drawn_s >= INTERVAL_S

    def draw(self, now: float) -> None:
        """Show the bars as they are now."""
        self.now_s = self._drawn_s = now
        self.show()

    def print(self, text: str, style: str = "") -> None:
        """Print whole lines, above the bars; the style counts on a terminal alone."""
        with suppress(OSError):  # where nobody can read it, the run is worth more than its line
            try:
                print(text, flush=True)
            except UnicodeEncodeError:
                encoding = sys.stdout.encoding or "ascii"
                print(text.encode(encoding, "replace").decode(encoding), flush=True)

    def show(self) -> None:
        """Bring the screen up to date; without bars, leave it as if there had been none."""

    def give_up(self, error: Exception) -> None:
        """Show no bars any more."""
        self.is_live = False
        warnings.warn(f"progress is not shown any more ({type(error).__name__}: {error})", stacklevel=3)
