"""Folders for cached files of a data set, and how much room they have."""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
from pathlib import Path
from typing import Literal

from ..errors import InputError
from ..system.cores import free_in_group

FileMode = Literal["ram", "disk"]

FOLDER = ".yolo_lightning_cache"


class NoRoom(InputError):
    """A cache cannot be made where it should go; the images themselves may be fine."""


def disk_folder(root: Path) -> Path:
    """Where files about a data set go: beside it, or to the user's cache folder where it is read-only.

    ``YOLO_LIGHTNING_CACHE`` in the environment names another folder, such as a disk of each node's own;
    variables in it, such as ``$TMPDIR``, are those of the node.

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
    # An administrator may write to a folder that is marked read-only, but that is not what was meant.
    if os.access(root, os.W_OK) and root.stat().st_mode & stat.S_IWUSR:
        return root / FOLDER
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "yolo_lightning"


def make_folder(folder: Path) -> None:
    """Make the folder of a cache.

    Raises:
        InputError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoRoom(
            f"{folder}: the cache cannot be made there ({error.strerror}); set --data.cache none"
        ) from None


def free_bytes(folder: Path, mode: FileMode) -> int:
    """Room for a cache in a folder that may still have to be made."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    return min(free, available_memory()) if mode == "ram" else free


def available_memory() -> int:
    """Bytes that can be taken without swapping; without a limit where Linux does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 1 << 62
    free = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return min(next(free, 1 << 62), free_in_group())
