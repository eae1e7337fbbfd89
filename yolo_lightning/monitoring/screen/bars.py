"""Progress bars as lines of text, and the display of a log file, which shows no bars."""

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
"""Least time between two drawings of the bars."""
_LEAST, _MOST = 8, 40
"""Width of the bar itself, in characters."""

Piece = tuple[str, str]
"""Text and its Rich style."""
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass
class Bar:
    """A progress bar with notes: ``epoch 2/30  43% ━━━━──── 12/28  0:41  note  note``."""

    label: str
    total: int | None
    """None if it is unknown."""
    began_s: float
    """Start, by the clock that is also given for drawing."""
    done: int = 0
    notes: Sequence[str] = ()
    """Most important first; a narrow terminal leaves out the last ones."""

    def pieces(self, width: int, now: float, ascii_only: bool = False) -> list[Piece]:
        """Return the line, in at most ``width`` characters.

        Args:
            width: of the terminal.
            now: time by the clock of ``began_s``, in s.
            ascii_only: use ASCII characters only.
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
    """Decorator of methods of :class:`Display`: an error ends the bars, not the run."""

    @wraps(method)
    def guarded(self: Display, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:  # the terminal is gone, or cannot show a character
            self.give_up(error)

    return cast("Method", guarded)


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
        """Add a bar below the others.

        Args:
            label: text before the bar.
            total: value of ``Bar.done`` at the end; infinite if it is unknown.
            now: time in s, by one clock for all bars.
        """
        bar = Bar(label, None if math.isinf(total) else int(total), now)
        self.bars.append(bar)
        self.draw(now)
        return bar

    def close(self, *bars: Bar | None) -> None:
        """Remove bars; None and bars that were removed before are ignored."""
        before = len(self.bars)
        self.bars = [bar for bar in self.bars if not any(bar is other for other in bars)]
        if len(self.bars) < before:
            self.show()

    def is_due(self, now: float) -> bool:
        """True if it is time to draw; cheap enough to ask after every batch."""
        return self.is_live and now - self.now_s >= INTERVAL_S

    def draw(self, now: float) -> None:
        """Show the current state of the bars."""
        self.now_s = now
        self.show()

    def print(self, text: str, style: str = "") -> None:
        """Print whole lines above the bars; only terminals use the style."""
        with suppress(OSError):  # a full disk or a closed pipe must not end the run
            try:
                print(text, flush=True)
            except UnicodeEncodeError:
                encoding = sys.stdout.encoding or "ascii"
                print(text.encode(encoding, "replace").decode(encoding), flush=True)

    def show(self) -> None:
        """Update the screen; without bars it looks as if there had been none."""

    def give_up(self, error: Exception) -> None:
        """Stop showing bars."""
        self.is_live = False
        warnings.warn(f"progress is not shown any more ({type(error).__name__}: {error})", stacklevel=3)
