"""Live bars at the bottom of a terminal; all other output appears above them."""

from __future__ import annotations

import logging
import os
import sys
import weakref
from contextlib import suppress
from threading import RLock, get_ident
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from .display import Bar, Display


class TerminalDisplay(Display):
    """Bars that Rich draws on request, without a thread of its own.

    While there are bars, output to ``sys.stdout``, to ``sys.stderr`` and through ``logging`` appears above
    them, from any thread. Rich's own redirection tears lines that threads print at the same time, misses
    the handlers of ``logging``, and captures ``2> FILE``.

    Args:
        stream: the terminal, as ``sys.stdout``.
    """

    is_live = True

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.lock = RLock()
        self._stream = stream
        self._console = _CursorLeftAlone(
            file=stream, force_terminal=True, force_jupyter=False, soft_wrap=True, highlight=False,
            markup=False, emoji=False,
        )  # fmt: skip
        self._live: Live | None = None
        self._shown: list[Bar] = []
        """Bars that Rich draws; it needs the old ones to erase them after the last bar was closed."""
        self._above: list[_LinesAbove] = []
        """Streams that stand in for others while there are bars."""
        _terminals.add(self)

    @property
    def width(self) -> int | None:
        return self._console.width

    def _show(self) -> None:
        with self.lock:
            if self.bars:
                self._shown = self.bars
                if self._live is None:
                    self._live = Live(
                        console=self._console, get_renderable=self._lines, auto_refresh=False, transient=True,
                        redirect_stdout=False, redirect_stderr=False, vertical_overflow="crop",
                    )  # fmt: skip
                    self._redirect()
                    self._live.start()
                self._live.refresh()
            elif self._live is not None:
                live, self._live = self._live, None
                live.stop()
                self._restore()

    def _redirect(self) -> None:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            # Leave a stream alone that goes elsewhere, as with 2> FILE.
            if stream is self._stream or (name == "stderr" and stream is not None and stream.isatty()):
                self._above.append(_LinesAbove(self, name))

    def _restore(self) -> None:
        for above in self._above:
            above.release()
        self._above = []

    def _lines(self) -> Group:
        options = self._console.options
        width = options.max_width - 1  # some terminals begin a line when the last column is written
        lines = [bar.pieces(width, self.now_s, options.ascii_only) for bar in self._shown]
        return Group(*(Text.assemble(*line) for line in lines))

    def print(self, text: str, style: str = "") -> None:
        self._print(Text(text, style=style))

    def print_foreign(self, text: str) -> None:
        """Print the output of others with its colours; of a foreign progress bar only the last state."""
        self._print(
            Text.from_ansi("\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")))
        )

    def _print(self, text: Text) -> None:
        with self.lock:
            try:
                if self.is_live:
                    self._console.print(text)
            except Exception as error:
                self.give_up(error)
            if not self.is_live:
                super().print(text.plain)

    def give_up(self, error: Exception) -> None:
        self.let_go()
        super().give_up(error)

    def let_go(self) -> None:
        """Restore the streams and stop drawing, without touching the screen."""
        self.is_live, self._live = False, None
        self._restore()


class _CursorLeftAlone(Console):
    """A console that never hides the cursor: a process that is killed could not bring it back."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class _LinesAbove:
    """A stream that prints whole lines above the bars, in the place of ``sys.stdout`` or ``sys.stderr``."""

    def __init__(self, display: TerminalDisplay, name: str) -> None:
        self._stream = getattr(sys, name)
        self._name = name
        self._display = display
        self._rests: dict[int, str] = {}
        """Unfinished line of each thread: print() writes the newline separately."""
        self._process = os.getpid()
        self._handlers = [  # of logging; they keep the stream from the time when they were made
            handler
            for logger in (logging.root, *list(logging.root.manager.loggerDict.values()))
            for handler in getattr(logger, "handlers", ())
            if isinstance(handler, logging.StreamHandler) and handler.stream is self._stream
        ]
        for handler in self._handlers:
            handler.stream = self
        setattr(sys, name, self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        thread = get_ident()
        with self._display.lock:
            lines, newline, self._rests[thread] = (self._rests.get(thread, "") + text).rpartition("\n")
            if newline:
                self._display.print_foreign(lines)
        return len(text)

    def flush(self) -> None:
        with self._display.lock:
            rest = self._rests.get(get_ident())
            # Print a question, which has no newline, but not each state of another progress bar.
            if rest and "\r" not in rest:
                self._rests[get_ident()] = ""
                self._display.print_foreign(rest)

    def release(self) -> None:
        """Give the stream back, with unfinished lines, but not again in a forked process."""
        for handler in self._handlers:
            if handler.stream is self:
                handler.stream = self._stream
        if getattr(sys, self._name) is self:
            setattr(sys, self._name, self._stream)
        rest = "".join(self._rests.values())
        self._rests.clear()
        if rest and os.getpid() == self._process:
            with suppress(OSError, ValueError):
                self._stream.write(rest)


_terminals: weakref.WeakSet[TerminalDisplay] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """Let a loader worker, forked while bars are shown, print as if there were none."""
    for display in list(_terminals):
        display.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
