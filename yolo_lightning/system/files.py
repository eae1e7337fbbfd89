"""Files that are replaced as a whole: a reader finds the old contents or the new, never a part."""

from __future__ import annotations

import itertools
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_DAY_S = 24 * 3600.0
_HOST = re.sub(r"\W", "_", socket.gethostname(), flags=re.ASCII) or "host"
_TOKEN = secrets.token_hex(4)  # in containers a restarted process often has the number of the dead one
_NUMBERS = itertools.count()
_TEMPORARY = re.compile(r"\..+\.(?P<host>\w+)-(?P<pid>\d{1,9})-(?P<token>[0-9a-f]{8})-\d+\.tmp", re.ASCII)


def write_whole(path: Path, contents: str | bytes) -> None:
    """Replace a file as a whole; its folder is made if it is missing.

    Text is written in UTF-8, with a ? for what cannot be encoded.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    with whole_file(path) as temporary, temporary.open("xb") as file:  # x: never through a link
        file.write(contents.encode(errors="replace") if isinstance(contents, str) else contents)


@contextmanager
def whole_file(path: Path, sync: bool = True) -> Iterator[Path]:
    """Yield the name of a temporary file, which replaces ``path`` when the block has ended.

    The block writes and closes the file, in a folder that is made if it is missing. If the block raises,
    ``path`` stays as it was, and the temporary file is removed. Without ``sync`` a power cut may leave the
    new name with wrong contents, which suits files that carry a checksum or can be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        if sync:
            bring_to_disk(temporary)
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # a part of a file would take the room that is missing


def bring_to_disk(path: Path) -> None:
    """Return when the contents of a file are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def temporary_name(path: Path) -> Path:
    """A new name beside ``path``, which says what process uses it."""
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{_TOKEN}-{next(_NUMBERS)}.tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of dead processes of this host, and any that are older than a day."""
    for file in folder.glob(".*.tmp"):
        if (match := _TEMPORARY.fullmatch(file.name)) is None:
            continue
        is_same_pid = int(match["pid"]) == os.getpid()
        if is_same_pid and match["token"] == _TOKEN:
            continue  # this process is writing it
        with suppress(OSError):
            is_dead = match["host"] == _HOST and (is_same_pid or not is_alive(int(match["pid"])))
            if is_dead or time.time() - file.stat().st_mtime > _DAY_S:
                file.unlink()


def is_alive(pid: int) -> bool:
    """Tell if this host has a process of that number."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # another user's process lives
    return True
