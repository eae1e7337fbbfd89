"""Which display standard output has."""

from __future__ import annotations

import os
import sys
from typing import Any

from .bars import Display
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
