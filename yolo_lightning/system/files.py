"""Small files that are never half."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any


def write_whole(path: Path, contents: str | bytes) -> None:
    """Write a file, and its folder, so that whoever reads it finds the old contents or the new.

    Args:
        path: the file.
        contents: text is written in UTF-8, whatever the locale, with a ? for what is no Unicode.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    data = contents.encode(errors="replace") if isinstance(contents, str) else contents
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut might leave the new name without its contents
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # a part of it would take the room that is missing


def take_lock(file: IO[Any]) -> bool:
    """Wait until no other process holds the lock of a file, and hold it until the file is closed.

    Args:
        file: An open file that is there for this alone; a process that dies lets go of it.

    Returns:
        Whether the file system has locks; without any, other processes may be here, too.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True
