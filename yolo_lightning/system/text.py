"""Durations and errors as short text, and text without commands to the terminal."""

from __future__ import annotations

from typing import Any


def duration(seconds: float) -> str:
    """Format a duration to read: ``8.2 s``, ``3 min 20 s``, ``1 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def clock(seconds: float) -> str:
    """Format a duration that counts up or down, in little room: ``0:05``, ``1:02:03``, ``12h34m``."""
    whole = max(round(seconds), 0)
    minutes, hours = whole // 60, whole // 3600
    if hours >= 10:
        return f"{hours}h{minutes % 60:02}m"
    return f"{hours}:{minutes % 60:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def one_line(text: str, most: int = 160) -> str:
    """Join the lines of a text with spaces, and cut it to ``most`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def first_line(error: BaseException, most: int = 160) -> str:
    """Class and first line of an error, of at most ``most`` characters."""
    return one_line(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}", most)


def last_line(error: BaseException) -> str:
    """The last line of an error's message; empty if it has none.

    The message of an error that a loader worker raised starts with the worker's traceback. Its last line is
    the message itself, behind the name of the class, which is removed for an ``InputError``.
    """
    lines = str(error).strip().splitlines() or [""]
    return printable(lines[-1].removeprefix("yolo_lightning.errors.InputError: "))


def printable(text: str) -> str:
    """A text with a ? for each letter that is a command to a terminal or cannot be shown."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def has_more_values(value: Any, most: int) -> bool:
    """Tell whether lists and mappings hold more than ``most`` values: YAML's aliases multiply them."""
    waiting, count = [value], 0
    while waiting and count <= most:
        part = waiting.pop()
        count += 1
        if isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
    return count > most
