"""Choice of the display for standard output."""

from __future__ import annotations

import os
import sys
from typing import Any

from .bars import Display
from .notebook import NotebookDisplay, in_notebook


def open_display() -> Display:
    """Open the display of standard output: live on a terminal and in a notebook, whole lines elsewhere."""
    if not is_terminal(sys.stdout):
        return NotebookDisplay() if in_notebook() else Display()
    from .terminal import TerminalDisplay  # Rich is slow to import, and a log does not need it

    return TerminalDisplay(sys.stdout)


def is_terminal(stream: Any) -> bool:
    """Tell if a stream can rewrite its lines."""
    try:
        return bool(stream.isatty()) and os.environ.get("TERM", "").lower() not in {"dumb", "unknown"}
    except (AttributeError, ValueError):  # no stream, or a closed one
        return False
