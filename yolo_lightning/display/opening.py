"""Which display standard output has."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from .bars import Display, duration
from .notebook import NotebookDisplay, in_notebook


def open_display() -> Display:
    """A display of standard output: live on a terminal and in a notebook, whole lines elsewhere."""
    if not is_terminal(sys.stdout):
        return NotebookDisplay() if in_notebook() else Display()
    from .terminal import TerminalDisplay  # Rich takes a moment to import, for which a log need not wait

    return TerminalDisplay(sys.stdout)


def is_terminal(stream: Any) -> bool:
    """Whether lines can be rewritten there."""
    try:
        return bool(stream.isatty()) and os.environ.get("TERM", "").lower() not in {"dumb", "unknown"}
    except (AttributeError, ValueError):  # no stream, or a closed one
        return False


@contextmanager
def counting(label: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar for a loop.

    Args:
        label: what the loop does.
        total: how many turns it has.

    Yields:
        What is to be called after each turn.
    """
    display = open_display()
    bar = display.open(label, total, perf_counter())

    def advance() -> None:
        bar.done += 1
        now = perf_counter()
        if display.is_due(now):
            bar.notes = [f"{duration((now - bar.began_s) / bar.done * (total - bar.done))} left"]
            display.draw(now)

    try:
        yield advance
    finally:
        display.close(bar)
