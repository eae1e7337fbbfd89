"""Bars in a notebook."""

from __future__ import annotations

import sys
from typing import Any

from .bars import Display, never_fails

_WIDTH = 110
"""Characters that fit into a cell."""


class NotebookDisplay(Display):
    """Bars in one output of a cell, which is updated in place; lines are printed below it."""

    is_live = True

    def __init__(self) -> None:
        super().__init__()
        self._handle: Any = None

    @never_fails
    def show(self) -> None:
        from IPython.display import display  # a kernel has it

        lines = ["".join(text for text, _ in bar.pieces(_WIDTH, self.now_s)) for bar in self.bars]
        data = {"text/plain": "\n".join(lines)}
        if not self.is_live:
            return
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def in_notebook() -> bool:
    """Tell if the process is a notebook kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")
