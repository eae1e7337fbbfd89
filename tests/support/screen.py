"""A terminal as far as our bars need one: what is on the screen after what was written to it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TOKENS = re.compile(r"\x1b\[(?P<numbers>[?0-9;]*)(?P<code>[A-Za-z])|(?P<other>.)", re.DOTALL)


@dataclass
class Screen:
    """Lines as wide as asked for, with all that has scrolled away above them.

    An escape sequence that it does not know is an error.
    """

    width: int = 80
    lines: list[str] = field(default_factory=lambda: [""])
    row: int = 0
    column: int = 0
    is_cursor_hidden: bool = False
    coloured: list[str] = field(default_factory=list)
    """What was written in a colour."""
    _is_coloured: bool = False

    def write(self, text: str) -> Screen:
        for token in _TOKENS.finditer(text):
            if token["other"] is None:
                self._control(token["code"], token["numbers"])
            elif token["other"] == "\r":
                self.column = 0
            elif token["other"] == "\n":
                self._next_line()
            else:
                assert token["other"] >= " ", f"{token['other']!r} is for no screen"
                self._put(token["other"])
        return self

    def _put(self, character: str) -> None:
        if self.column == self.width:
            self._next_line()
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1
        if self._is_coloured:
            self.coloured[-1] += character

    def _next_line(self) -> None:
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.lines):
            self.lines.append("")

    def _control(self, code: str, numbers: str) -> None:
        if code == "A":
            self.row -= int(numbers or 1)
            assert self.row >= 0
        elif code == "K" and numbers == "2":
            self.lines[self.row] = ""
        elif code == "m":
            self._is_coloured = any(30 <= int(n or 0) <= 49 for n in numbers.split(";"))
            if self._is_coloured:
                self.coloured.append("")
        elif code in "hl" and numbers == "?25":
            self.is_cursor_hidden = code == "l"
        else:
            raise AssertionError(f"unknown escape sequence {numbers}{code}")

    @property
    def text(self) -> str:
        """All lines, without the blanks at their ends and without the empty ones at the end."""
        return "\n".join(line.rstrip() for line in self.lines).rstrip("\n")
