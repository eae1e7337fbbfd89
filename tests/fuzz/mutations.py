"""Strategies that damage sound documents and bytes, as an attacker or a broken tool would."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

HUGE_DIGITS = "9" * 5000
"""Stands for a number with more digits than Python converts; :func:`as_json` writes it without quotes."""
DEEP = "deep nesting"
"""Stands for more brackets than a recursive parser has stack; written by :func:`as_json`."""

ODD_TEXTS = [
    "", " ", "\0", "a\0b", "\ud800", "\udc80", "\ufeff", "\x1b[2J", "a\nb", "a\r", "..", "../../x", "/",
    "/etc/passwd",
    "C:\\x\\y.png", "http://[", "file:///etc/passwd", "%2e%2e/", "=1+1", "<b>", "~", "null", "nan", "-inf",
    "1e999",
    "0x10", "1_0", "٣", "²", "12:30", "yes", "None", "{{7*7}}", "%s{0}", "a" * 5000, "/".join("a" * 300),
    "!!python/name:os.system",
]  # fmt: skip
ODD_NUMBERS = [
    0, -1, 1, 0.5, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 10**400, 10**12, 1e308,
    -1e308,
    1e-320, float("nan"), float("inf"), float("-inf"), -0.0, True, False,
]  # fmt: skip

scalars = st.one_of(
    st.sampled_from([*ODD_NUMBERS, *ODD_TEXTS, None, HUGE_DIGITS, DEEP]),
    st.integers(-3, 300),
    st.floats(width=32),
    st.text(max_size=8),
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document, its own first."""
    yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from places(value, (*path, key))
    elif isinstance(document, list):
        for key, value in enumerate(document):
            yield from places(value, (*path, key))


@st.composite
def documents(draw: st.DrawFn, *sound: Any, most: int = 4) -> Any:
    """One of the sound documents after some changes: values replaced, dropped, moved, repeated or renamed."""
    document = copy.deepcopy(draw(st.sampled_from(sound)))
    for _ in range(draw(st.integers(0, most))):
        path = draw(st.sampled_from(list(places(document))))
        if not path:
            if draw(st.integers(0, 20)) == 20:
                return draw(values)
            continue
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        key = path[-1]
        match draw(st.sampled_from(["replace", "replace", "drop", "copy", "wrap", "repeat", "rename"])):
            case "replace":
                holder[key] = draw(values)
            case "drop":
                del holder[key]
            case "copy":  # from anywhere
                other: Any = document
                for step in draw(st.sampled_from(list(places(document)))):
                    other = other[step]
                holder[key] = copy.deepcopy(other)
            case "wrap":
                holder[key] = draw(st.sampled_from([[holder[key]], {"a": holder[key]}, str(holder[key])]))
            case "repeat" if isinstance(holder, list):
                holder[key:key] = [holder[key]] * draw(st.integers(1, 30))
            case "rename" if isinstance(holder, dict):
                holder[draw(st.text(max_size=5) | st.sampled_from(ODD_TEXTS))] = holder.pop(key)
    return document


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes after a few cuts, copies, insertions and changes."""
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(1, 64))
        match draw(st.sampled_from(["set", "cut", "end", "insert", "copy", "zero"])):
            case "set":
                data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
            case "cut":
                data = data[:at] + data[at + length :]
            case "end":
                data = data[:at]
            case "insert":
                data = data[:at] + draw(st.binary(max_size=16)) + data[at:]
            case "copy":
                data = data[:at] + data[at : at + length] * 3 + data[at + length :]
            case "zero":
                data = data[:at] + draw(st.sampled_from([b"\0", b"\xff"])) * 4 + data[at + 4 :]
    return data


@st.composite
def as_json(draw: st.DrawFn, document: Any) -> bytes:
    """A document as JSON text, with what only a text can have, or with damaged bytes."""
    text = json.dumps(document, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    text = text.replace(json.dumps(HUGE_DIGITS), HUGE_DIGITS)
    text = text.replace(json.dumps(DEEP), draw(st.sampled_from(["[" * 100_000, "[" * 900 + "]" * 900])))
    if draw(st.integers(0, 9)) == 0:  # a key twice
        text = text.replace(":", ': 1, "id":', 1)
    data = text.encode("utf-8", "surrogatepass")
    return draw(damaged(data)) if draw(st.integers(0, 3)) == 0 else data
