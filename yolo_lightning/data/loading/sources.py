"""What to predict on: files, folders, patterns, lists, addresses and cameras, as image files and streams."""

from __future__ import annotations

import atexit
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

from ...errors import InputError
from ..annotations.index import IMAGE_SUFFIXES, missing_files
from ..annotations.yolo import images_below

VIDEO_SUFFIXES = frozenset(
    (".asf", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")
)
"""Suffixes of the files that are videos."""
_ANSWER_S = 30.0
"""Longest silence of a server, in s."""


class Sources(NamedTuple):
    """What to predict on, in the order given."""

    images: list[Path]
    streams: list[str]  # paths of videos, addresses, and numbers of cameras


def is_stream(name: str) -> bool:
    """Tell if a source is an address or the number of a camera, not a path."""
    return "://" in name or name.isdecimal()


def is_live(stream: str) -> bool:
    """Tell if the frames of a stream come by the clock: a camera, or an address that is not a video file."""
    return stream.isdecimal() or ("://" in stream and _suffix(stream) not in VIDEO_SUFFIXES)


def find_sources(source: str | Sequence[str], allow_outside: bool = False) -> Sources:
    """Images and streams of sources, each once.

    Args:
        source: Paths of images and videos, folders (with all images and videos in and below them, sorted),
            patterns such as ``a/**/*.jpg``, text files with a path in each line, addresses, and numbers of
            cameras. An image or video whose address begins with http is fetched into a temporary folder.
        allow_outside: Follow links that lead out of a folder.

    Raises:
        InputError: A path does not exist, a folder has no images, a link in it leads out of it and
            ``allow_outside`` is false, or a file cannot be fetched.
    """
    images: dict[str, None] = {}
    streams: dict[str, None] = {}
    for name in [source] if isinstance(source, str) else source:
        for found in _expand(name, allow_outside):
            is_video = is_stream(found) or _suffix(found) in VIDEO_SUFFIXES
            (streams if is_video else images)[found] = None
    if not images and not streams:
        raise InputError("there is nothing to predict; give images or folders as --data.predict_source")
    return Sources([Path(path) for path in images], list(streams))


def list_images(source: str | Sequence[str], allow_outside: bool = False) -> list[Path]:
    """Image files of sources, see :func:`find_sources`.

    Raises:
        InputError: As :func:`find_sources`; or a source is a video.
    """
    images, streams = find_sources(source, allow_outside)
    if streams:
        raise InputError(f"{streams[0]}: is a video or stream; give images or folders")
    return images


def _expand(name: str, allow_outside: bool) -> list[str]:
    """Files and streams that one source stands for."""
    if is_stream(name):
        # A server may not let a decoder read a video from the middle, as many files need.
        is_file = (
            name.startswith(("http://", "https://")) and _suffix(name) in IMAGE_SUFFIXES | VIDEO_SUFFIXES
        )
        return [fetch(name)] if is_file else [name]
    path = Path(name).absolute()
    if path.is_dir():
        roots = None if allow_outside else [os.path.realpath(path)]
        if not (found := images_below(path, roots, IMAGE_SUFFIXES | VIDEO_SUFFIXES)):
            raise InputError(f"{path}: the folder has no images; give another folder, or an image")
        return found
    if not missing_files([str(path)]):
        return _listed(path) if path.suffix.lower() == ".txt" else [str(path)]
    matches = sorted(glob.glob(name, recursive=True))  # of the name alone: the working directory may have a [
    found = [os.path.abspath(match) for match in matches if _suffix(match) in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
    if not found:
        raise InputError(f"{path}: no such image or folder; correct --data.predict_source")
    return found


def _listed(path: Path) -> list[str]:
    """Files that a text file names, one a line; relative ones are relative to the working directory."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the list cannot be read ({error}); write one path a line") from None
    files = [os.path.abspath(line) for line in lines if line]
    if missing := missing_files(files):
        raise InputError(f"{path}: names {missing[0]}, which does not exist; correct the list")
    return files


def fetch(address: str) -> str:
    """Fetch a file into a folder that is removed when the program ends; returns its path.

    Raises:
        InputError: It cannot be fetched.
    """
    folder = tempfile.mkdtemp(prefix="yolo-lightning-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    name = re.sub(r"[^\w.-]", "_", Path(unquote(urlsplit(address).path)).name)
    path = os.path.join(folder, name)
    try:
        with urlopen(address, timeout=_ANSWER_S) as answer, open(path, "xb") as file:
            shutil.copyfileobj(answer, file)
    except (OSError, ValueError) as error:  # an address that is none, or that nobody answers
        raise InputError(f"{address}: cannot be fetched ({error}); check the address") from None
    return path


def _suffix(name: str) -> str:
    return os.path.splitext(urlsplit(name).path if "://" in name else name)[1].lower()
