"""Files of labelling tools, found in a folder and parsed: JSON, XML and CSV."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...errors import InputError
from .spelling import read_text

LOOKED_AT = 10
"""Files of a folder that are opened to find out its format."""


class BrokenFileError(InputError):
    """A file that cannot be parsed."""


def files_below(place: str | Path, suffix: str) -> Iterator[str]:
    """Paths of the files with a suffix in and below a folder, the upper ones first; or of a file itself.

    Leftovers of systems and editors are passed over.
    """
    if os.path.isfile(place):
        yield from [str(place)] if str(place).lower().endswith(suffix) else []
        return
    try:
        with os.scandir(place) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except PermissionError:  # such as lost+found in the root of a disk
        return
    entries = [entry for entry in entries if not (entry.name.startswith(".") or entry.name == "@eaDir")]
    yield from (e.path for e in entries if e.name.lower().endswith(suffix) and e.is_file())
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(entry.path, suffix)


def find_broken(root: Path) -> str:
    """Describe the fault of one of the first JSON and XML files of a folder, with a comma; "" without one."""
    for suffix in (".json", ".xml"):
        for path in islice(files_below(root, suffix), LOOKED_AT):
            try:
                load(Path(path))
            except (InputError, OSError) as error:
                return f"{error}, or "
    return ""


@lru_cache(maxsize=LOOKED_AT)
def load_again(path: str, _: object) -> Any:
    """The content of a file that several formats look at."""
    return load(Path(path))


def load(path: Path) -> Any:
    """The content of a JSON, an XML (its root element) or a CSV (a list of rows).

    Raises:
        BrokenFileError: It cannot be read, or is an XML with a document type.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".xml":
            return ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_PlainTree()))
        if suffix == ".csv":
            return list(csv.reader(read_text(path).splitlines()))
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        where, what = f"{path}:{error.lineno}", f"JSON at column {error.colno} ({error.msg})"
    except ElementTree.ParseError as error:
        where, what = f"{path}:{error.position[0]}", f"XML at column {error.position[1]} ({error})"
    except InputError as error:
        raise BrokenFileError(str(error)) from None
    except (csv.Error, LookupError, OSError, RecursionError, ValueError) as error:
        where, what = str(path), f"file ({error})"
    raise BrokenFileError(f"{where}: broken {what}; repair it or export the annotations again")


class _PlainTree(ElementTree.TreeBuilder):
    """Builder of a tree without entities: a few of them can stand for a text of any size."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a <!DOCTYPE>, which no labelling tool writes; remove it")
