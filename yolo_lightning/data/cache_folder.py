"""Folders for cached files of a data set, their locks, and the room in them."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

from ..errors import InputError
from ..system.cores import free_in_group

FileMode = Literal["ram", "disk"]

FOLDER = ".yolo_lightning_cache"


class NoRoom(InputError):
    """A cache cannot be made in its folder; the images themselves may be fine."""


def cache_folder(root: Path, mode: FileMode) -> Path:
    """Folder for cached images of the data set in ``root``: in shared memory, or see :func:`disk_folder`."""
    if mode == "disk":
        return disk_folder(root)
    shared = Path("/dev/shm")
    base = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    return base / f"yolo_lightning_{os.getuid() if hasattr(os, 'getuid') else 'user'}"


def disk_folder(root: Path) -> Path:
    """Folder for files about the data set in ``root``: beside it, or the user's cache folder if read-only.

    ``YOLO_LIGHTNING_CACHE`` in the environment names another folder, such as a local disk of each node;
    each node expands variables in it, such as ``$TMPDIR``.

    Raises:
        InputError: One of these variables is not set.
    """
    if named := os.environ.get("YOLO_LIGHTNING_CACHE"):
        expanded = os.path.expandvars(named)
        if unset := re.search(r"\$(\w+|\{\w+\})", expanded):
            raise InputError(
                f"YOLO_LIGHTNING_CACHE is {named}, but {unset[0]} is not set on {platform.node()}; name "
                "another folder"
            )
        return Path(expanded).expanduser().absolute()
    # An administrator may write to a folder that is marked read-only, but should not.
    if os.access(root, os.W_OK) and root.stat().st_mode & stat.S_IWUSR:
        return root / FOLDER
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "yolo_lightning"


def lock_folder(folder: Path, name: str) -> IO[str]:
    """Make a folder, and wait for the lock ``name`` in it; closing the returned file releases the lock.

    Raises:
        OSError: The folder or the file cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / name).open("w")
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def free_bytes(folder: Path, mode: FileMode) -> int:
    """Room for a cache in a folder that need not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    return min(free, available_memory()) if mode == "ram" else free


def available_memory() -> int:
    """Bytes that can be allocated without swapping; practically infinite if the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 1 << 62
    free = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return min(next(free, 1 << 62), free_in_group())
