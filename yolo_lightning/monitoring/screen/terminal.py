"""Live bars at the bottom of a terminal; all other output appears above them."""

from __future__ import annotations

import logging
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import suppress
from threading import RLock, get_ident
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from .bars import Bar, Display, never_fails


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
        self._redirection = _Redirection(self)
        _terminals.add(self)

    @property
    def width(self) -> int | None:
        return self._console.width

    @never_fails
    def show(self) -> None:
        with self.lock:
            if not self.is_live:
                return
            if self.bars and self._live is None:
                self._shown = self.bars
                self._live = Live(
                    console=self._console, get_renderable=self._lines, auto_refresh=False, transient=True,
                    redirect_stdout=False, redirect_stderr=False, vertical_overflow="crop",
                )  # fmt: skip
                self._redirection.begin(self._stream)
                self._live.start()
            if self._live is not None and self.bars:
                self._shown = self.bars
                self._live.refresh()
            elif self._live is not None:
                live, self._live = self._live, None
                live.stop()
                self._redirection.end()

    def _lines(self) -> Group:
        options = self._console.options
        width = options.max_width - 1  # some terminals begin a line when the last column is written
        lines = [bar.pieces(width, self.now_s, options.ascii_only) for bar in self._shown]
        return Group(*(Text.assemble(*line) for line in lines))

    def print(self, text: str, style: str = "") -> None:
        if not self._print(Text(text, style=style)):
            super().print(text)

    def print_foreign(self, text: str) -> None:
        """Print the output of others with its colours; of a foreign progress bar only the last state."""
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
        if not self._print(Text.from_ansi(text)):
            super().print(text)

    @never_fails
    def _print(self, text: Text) -> bool:
        with self.lock:
            if self.is_live:
                self._console.print(text)
            return self.is_live

    def give_up(self, error: Exception) -> None:
        self.let_go()
        super().give_up(error)

    def let_go(self) -> None:
        """Restore the streams and stop drawing, without touching the screen."""
        self.is_live, self._live = False, None
        self._redirection.end()


class _CursorLeftAlone(Console):
    """A console that never hides the cursor: a process that is killed could not bring it back."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class _Redirection:
    """Redirects the output of others above the bars, while there are bars."""

    def __init__(self, display: TerminalDisplay) -> None:
        self._display = display
        self._streams: list[tuple[str, _LinesAbove]] = []
        self._handlers: list[tuple[logging.StreamHandler[Any], _LinesAbove]] = []

    def begin(self, terminal: TextIO) -> None:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            # Leave a stream alone that goes elsewhere, as with 2> FILE.
            if stream is terminal or (name == "stderr" and stream is not None and stream.isatty()):
                above = _LinesAbove(self._display, stream)
                setattr(sys, name, above)
                self._streams.append((name, above))
                # A handler keeps the stream from the time when it was made.
                self._handlers += [(handler, above) for handler in _handlers_of(stream)]
        for handler, above in self._handlers:
            handler.stream = above

    def end(self) -> None:
        for handler, above in self._handlers:
            if handler.stream is above:
                handler.stream = above.stream
        for name, above in self._streams:
            if getattr(sys, name) is above:
                setattr(sys, name, above.stream)
            above.release()
        self._handlers, self._streams = [], []


class _LinesAbove:
    """A stream that prints whole lines above the bars."""

    def __init__(self, display: TerminalDisplay, stream: TextIO) -> None:
        self.stream = stream
        self._display = display
        self._rests: dict[int, str] = {}
        """Unfinished line of each thread: print() writes the newline separately."""
        self._process = os.getpid()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

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
        """Write unfinished lines to the stream itself, but not again in a forked process."""
        rest = "".join(self._rests.values())
        self._rests.clear()
        if rest and os.getpid() == self._process:
            with suppress(OSError, ValueError):
                self.stream.write(rest)


def _handlers_of(stream: TextIO) -> Iterator[logging.StreamHandler[Any]]:
    """Yield the handlers of ``logging`` that write to a stream."""
    for logger in (logging.root, *list(logging.root.manager.loggerDict.values())):
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                yield handler


_terminals: weakref.WeakSet[TerminalDisplay] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """Let a loader worker, forked while bars are shown, print as if there were none."""
    for display in list(_terminals):
        display.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
