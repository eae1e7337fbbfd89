"""Image files below a folder, found by names that tools on other machines have written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote

from .index import IMAGE_SUFFIXES
from .spelling import path_parts, with_slashes


def split_in(parts: Iterable[str]) -> str:
    """The split that the first folder called train, val, test or alike stands for; "" without one."""
    for part in parts:
        if found := re.fullmatch(r"(train|val|test)(ing|id|idation)?\d*", part.lower()):
            return found[1]
    return ""


class ImageFiles:
    """Some image files; ``folder`` is the one that their splits' folders are below."""

    def __init__(self, paths: Sequence[str], folder: str, allow_outside: bool = False) -> None:
        self.paths = paths
        self._folder = folder
        self._allow_outside = allow_outside
        self._named: dict[str, list[str]] = {}  # by name, in lower case
        self._stems: dict[str, list[str]] = {}  # by name without suffix, in lower case
        for path in paths:
            name = os.path.basename(path).lower()
            self._named.setdefault(name, []).append(path)
            self._stems.setdefault(os.path.splitext(name)[0], []).append(path)

    def find(self, names: Iterable[str], beside: Path, split: str = "") -> str | None:
        """The image of the first of some names that is found; None if there is none, or several fit as well.

        The longest end of a name counts, then folders that are those of the annotations, too.

        Args:
            names: Paths or URLs; a name without the suffix of an image fits all suffixes.
            beside: Folder that relative names count from.
            split: Images in a folder of another split do not fit.
        """
        for name in dict.fromkeys(spelt for given in names for spelt in (given, unquote(given))):
            direct = os.path.normpath(os.path.join(beside, with_slashes(name)))
            parts = path_parts(name)
            if not parts or "\0" in name:
                continue
            if self._allow_outside and os.path.isfile(direct):
                return direct
            has_suffix = os.path.splitext(parts[-1])[1].lower() in IMAGE_SUFFIXES
            found = (self._named if has_suffix else self._stems).get(parts[-1].lower(), [])
            fitting = [path for path in found if not split or self.split(path) in ("", split)]
            ranked = sorted(((_fit(path, direct, parts, beside), path) for path in fitting), reverse=True)
            if ranked and (len(ranked) == 1 or ranked[0][0] > ranked[1][0]):
                return ranked[0][1]
        return None

    def split(self, path: str) -> str:
        """The split that a folder of an image stands for."""
        return split_in(Path(os.path.relpath(path, self._folder)).parts[:-1])


def _fit(path: str, direct: str, parts: Sequence[str], beside: Path) -> tuple[bool, int, bool, int]:
    """How well an image fits a name: larger is better."""
    own = path.split(os.sep)
    same = 0
    for a, b in zip(reversed(own), reversed(parts), strict=False):
        if a.lower() != b.lower():
            break
        same += 1
    return path == direct, same, own[-1] == parts[-1], len(set(own[:-1]) & set(beside.parts))
