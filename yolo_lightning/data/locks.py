"""Files that let one process of a machine do what all of them need."""

from __future__ import annotations

from typing import IO, Any


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
