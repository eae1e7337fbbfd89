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

LOOKED_AT = 20
"""Files of a folder that are opened to find out its format."""


def files_below(place: Path, suffix: str) -> Iterator[Path]:
    """The files with a suffix in and below a folder, the upper ones first; a file itself.

    Leftovers of systems and editors are passed over.
    """
    if place.is_file():
        yield from [place] if place.suffix.lower() == suffix else []
        return
    for parent, folders, names in os.walk(place):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "@eaDir")
        for name in sorted(names):
            path = os.path.join(parent, name)
            if name.lower().endswith(suffix) and name[0] != "." and os.path.isfile(path):
                yield Path(path)


def find_broken(root: Path) -> str:
    """What is wrong with one of the first JSON and XML files of a folder, with a comma; "" if nothing is."""
    for suffix in (".json", ".xml"):
        for path in islice(files_below(root, suffix), LOOKED_AT):
            try:
                load(path)
            except (InputError, OSError) as error:
                return f"{error}, or "
    return ""


@lru_cache(maxsize=LOOKED_AT)
def load_again(path: Path, _: object) -> Any:
    """The content of a file that several formats look at."""
    return load(path)


def load(path: Path) -> Any:
    """The content of a JSON, an XML (its root element) or a CSV (a list of rows).

    Raises:
        InputError: It is broken, or an XML that declares a document type or entities.
        OSError: It cannot be read.
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
    except (csv.Error, LookupError, RecursionError, ValueError) as error:
        where, what = str(path), f"file ({error})"
    raise InputError(f"{where}: broken {what}; repair it or export the annotations again")


class _PlainTree(ElementTree.TreeBuilder):
    """Builder of a tree without entities: a few of them can stand for a text of any size."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a <!DOCTYPE>, which no labelling tool writes; remove it")
