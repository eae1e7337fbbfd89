"""Text and names of images as labelling tools on other machines write them."""

from __future__ import annotations

import codecs
import errno
import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from ...errors import InputError
from .findings import Finding
from .index import missing_files

_MANY = 100  # names that are not found until a folder is given up
_MOST_BYTES = 2**28
_DEEPEST = 16  # folders of a name that are looked at


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark, which tells it for certain.

    Raises:
        InputError: It has another encoding.
        OSError: It cannot be read, is no file, or has more than 256 MiB.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever, and a device has no end
        raise OSError(errno.EINVAL, "it is no file")
    if status.st_size > _MOST_BYTES:  # a file with a hole takes no room on the disk
        raise OSError(errno.EFBIG, "it has more than 256 MiB")
    data = path.read_bytes()
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 without the mark has them
        raise InputError(f"{path}: cannot be read, it is not a text in UTF-8; save the file as UTF-8")
    return text


def with_slashes(name: str) -> str:
    r"""A path with / for \; in "images\train" YAML has made the t, too, a tab."""
    for letter, code in zip("abtnvfr", "\a\b\t\n\v\f\r", strict=True):
        name = name.replace(code, f"/{letter}")
    return name.replace("\\", "/")


def locate_images(
    folders: Sequence[Path], names: Sequence[str], source: Path, findings: list[Finding]
) -> tuple[list[str], list[str]]:
    """Absolute paths of images in the first of the folders that have most of them, and the missing ones.

    If no folder has all, other spellings of the names are tried; see :func:`find_respelled`.
    """
    tries = []
    for folder in folders:
        paths = [os.path.abspath(folder / name) for name in names]
        missing = missing_files(paths)
        if not missing:
            return paths, []
        tries.append((paths, missing))
    notes: list[Finding] = []
    if respelled := find_respelled(folders, names, source, notes):
        tries.append((respelled, missing_files(respelled)))
    best = min(tries, key=lambda item: len(item[1]))
    findings += notes if best[0] is respelled else []
    return best


def find_respelled(
    folders: Sequence[Path], names: Sequence[str], source: Path, findings: list[Finding]
) -> list[str] | None:
    r"""Absolute paths of images that are not under their names, all in or below one of some folders.

    A name may have \ for /, be a URL, begin with folders of another machine, and differ in upper case. The
    longest end of it counts that is a file. Names that are not found are kept, in the folder that has the
    most. None if none is found, or if two names give one file. ``findings`` gets one about the file
    ``source`` that has the names.
    """
    listings: dict[str, tuple[set[str], dict[str, str]]] = {}  # names, and those unique in lower case

    def look(folder: Path, end: str) -> str | None:
        parent, name = os.path.split(os.path.join(os.path.abspath(folder), end))
        if parent not in listings:
            entries = os.listdir(parent) if os.path.isdir(parent) else []
            alike = Counter(entry.lower() for entry in entries)
            unique = {entry.lower(): entry for entry in entries if alike[entry.lower()] == 1}
            listings[parent] = set(entries), unique
        names, unique = listings[parent]
        found = name if name in names else unique.get(name.lower())
        return found and os.path.join(parent, found)

    best: list[str | None] = []
    for folder in folders:
        paths: list[str | None] = []
        missed = 0
        for name in names:
            paths.append(next(filter(None, (look(folder, end) for end in _ends(name))), None))
            missed += paths[-1] is None
            if missed > _MANY + len(paths) / 2:
                break
        else:
            found = {path for path in paths if path}
            unique = len(found) == len({name for name, path in zip(names, paths, strict=True) if path})
            if unique and len(found) > len({path for path in best if path}):
                best, base = paths, folder
        if best and None not in best:
            break
    if not best:
        return None
    name, path = next((name, path) for name, path in zip(names, best, strict=True) if path)
    what = f"images are spelled otherwise than their files, {name} is {path}"
    findings.append(Finding("other spelling", str(source), what, "nothing has to be done", is_note=True))
    return [path or os.path.abspath(base / name) for name, path in zip(names, best, strict=True)]


def _ends(name: str) -> list[str]:
    """The path in a name, then without its first folder, and so on to the file name alone."""
    parts = path_parts(name)
    return ["/".join(parts[n:]) for n in range(len(parts))]


def path_parts(name: str) -> list[str]:
    """The folders and the file of the path in a name, without what only moves between folders."""
    name = name.split("/data/local-files/?d=")[-1]  # Label Studio
    if "://" in name:
        name = unquote(name.split("://", 1)[1].split("?")[0].split("#")[0])
    return [part for part in with_slashes(name).split("/") if part not in ("", ".", "..")][-_DEEPEST:]
