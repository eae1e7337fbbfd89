"""Files of a run directory, which may be a stranger's: read without following links, and checked."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from ..system.text import first_line

_MOST_BYTES, _DEEPEST = 2**28, 50
_MAGIC = {".png": b"\x89PNG\r\n\x1a\n", ".jpg": b"\xff\xd8\xff"}
_NUMBER = (int, float)
_SHAPES: dict[str, dict[str, Any]] = {
    "config.yaml": {"trainer": {"max_epochs": (int, type(None))}, "data": {"image_size": (int, list)}},
    "environment.json": {"gpus": [str], "world_size": int, "command": [str], "packages": {}},
    "gpu_health.json": {"devices": [{}]},
    "summary.json": {
        "monitor": str,
        "best": dict.fromkeys(("val/map", "val/map_50"), (*_NUMBER, type(None))),
    },
    "time_budget.json": {"wall_seconds": _NUMBER, "seconds": {"*": _NUMBER}, "processes": int},
}
"""Types of the values that we compute with, if a file has them; ``*`` is every key."""


def read_bytes(directory: Path, name: str) -> bytes | None:
    """The contents of a file below a run directory, which may be a link itself; None if it is missing.

    Raises:
        InputError: it is a link, lies behind one, or is no regular file that can be read.
    """
    try:
        with ExitStack() as opened:
            handle = os.open(directory, os.O_RDONLY)
            opened.callback(os.close, handle)
            for part in Path(name).parts:  # one by one, so that nobody can put a link in between
                handle = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle)
                opened.callback(os.close, handle)
            with open(handle, "rb", closefd=False) as file:
                if stat.S_ISREG((found := os.fstat(handle)).st_mode) and found.st_size <= _MOST_BYTES:
                    return file.read()
            problem = "is no regular file of at most 256 MiB"
    except FileNotFoundError:
        return None
    except OSError as error:
        problem = f"cannot be read without following links ({error.strerror})"
    raise InputError(f"{directory / name}: {problem}; put the file itself there, or remove it")


def read_content(directory: Path, name: str) -> Any:
    """The plain values of a JSON or YAML file of a run, or an image's bytes; None if it is missing.

    Raises:
        InputError: as for ``read_bytes``, or the contents are damaged or have wrong types.
    """
    contents, suffix = read_bytes(directory, name), Path(name).suffix
    try:
        if contents is None or (suffix in _MAGIC and contents.startswith(_MAGIC[suffix])):
            return contents
        loaded = yaml.safe_load(contents) if suffix == ".yaml" else json.loads(contents)
        # A file has fewer values than bytes, unless aliases of YAML multiply them.
        return _plain(loaded, _SHAPES.get(name, {}), iter(range(len(contents))))
    except Exception as error:  # PyYAML raises many kinds
        raise InputError(f"{directory / name}: cannot be read ({first_line(error)}); remove it") from None


def _plain(value: Any, shape: Any, left: Iterator[int], depth: int = 0) -> Any:
    """A copy with JSON's types, of the given shape; numbers that are not finite, dates and more are text."""
    if isinstance(value, _NUMBER) and not abs(value) < 1e300:
        value = str(value)
    kind = type(shape) if isinstance(shape, (dict, list)) else shape
    if depth > _DEEPEST or next(left, None) is None or not isinstance(value, kind):
        raise ValueError("a value has a wrong type, is nested too deeply or repeated too often")
    if isinstance(value, dict):
        inner = shape if isinstance(shape, dict) else {}
        shapes = {key: inner.get(key, inner.get("*", object)) for key in value}
        return {str(key): _plain(value[key], shapes[key], left, depth + 1) for key in value}
    if isinstance(value, (list, tuple)):
        of_all = shape[0] if isinstance(shape, list) else object
        return [_plain(item, of_all, left, depth + 1) for item in value]
    return value if isinstance(value, (str, type(None), *_NUMBER)) else str(value)
