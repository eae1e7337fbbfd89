"""Folders for cached files of a data set, their locks, and the room in them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
from contextlib import suppress
from functools import cache
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
    return base / f"yolo_lightning_{sign(b'shared memory').hex()[:32]}"  # else others could make it first


def disk_folder(root: Path | None) -> Path:
    """Folder for files about the data set in ``root``: beside it, or the user's cache folder if read-only.

    ``YOLO_LIGHTNING_CACHE`` in the environment names another folder, such as a local disk of each node;
    each node expands variables in it, such as ``$TMPDIR``. In a folder of all users, each has one.

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
        folder = Path(expanded).expanduser().resolve()
        return folder if _may_be_ours(folder) else folder / f"yolo_lightning_{os.getuid()}"
    # An administrator may write to a folder that is marked read-only, but should not.
    is_writable = root and os.access(root, os.W_OK) and root.stat().st_mode & stat.S_IWUSR
    if root and is_writable and _may_be_ours(root / FOLDER):
        return root / FOLDER
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "yolo_lightning"


def _may_be_ours(path: Path) -> bool:
    return not os.path.lexists(path) or path.lstat().st_uid == os.getuid()


def lock_folder(folder: Path, name: str) -> IO[bytes]:
    """Make a folder, and wait for the lock ``name`` in it; closing the returned file releases the lock.

    Whoever made the data set may have put both there. So neither may be a link, and the file is not emptied.

    Raises:
        NoRoom: The folder or the file cannot be made, is a link, or is another user's.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        for path in (folder, folder / name):
            if path.is_symlink() or not _may_be_ours(path):
                raise NoRoom(
                    f"{path}: nothing is cached here, as it is a symbolic link or another user's; remove it, "
                    "or set YOLO_LIGHTNING_CACHE to a folder of your own"
                )
        file = os.fdopen(os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b")
    except OSError as error:
        raise NoRoom(
            f"{folder}: the cache cannot be made there ({error.strerror}); set YOLO_LIGHTNING_CACHE to a "
            "folder of your own, or --data.cache none"
        ) from None
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def sign(contents: bytes | memoryview) -> bytes:
    """32 bytes that only processes of this user can compute, to tell the user's files from forged ones.

    Raises:
        NoRoom: The user's cache folder cannot keep the secret.
    """
    return hashlib.blake2b(contents, key=_secret(disk_folder(None)), digest_size=32).digest()


@cache
def _secret(folder: Path) -> bytes:
    with lock_folder(folder, "secret") as file:
        os.fchmod(file.fileno(), 0o600)
        secret = file.read(32)
        if len(secret) < 32:
            secret = secrets.token_bytes(32)
            try:
                os.pwrite(file.fileno(), secret, 0)
            except OSError as error:
                raise NoRoom(
                    f"{folder}: nothing is cached, as no file can be written there ({error.strerror}); make "
                    "room, or set XDG_CACHE_HOME to another folder"
                ) from None
        return secret


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
