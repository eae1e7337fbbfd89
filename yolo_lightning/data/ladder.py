"""Where decoded images are kept: which rung of the ladder a data set fits on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import torch

from .cache import FileMode, available_memory, free_bytes

CacheMode = Literal["auto", "none", "disk", "ram", "device"]

DEVICE_SHARE = 0.25
"""Of the device's free memory, what a training set may take; the rest is for training."""
FILE_SHARE = 0.5
"""Of free disk space and of available memory, what cached files may take when nobody asked for them."""


class Room(NamedTuple):
    """Bytes that are free."""

    device: int
    memory: int
    disk: int


class Rung(NamedTuple):
    """Where decoded images are kept."""

    cache: Literal["none", "disk", "ram", "device"]
    file: FileMode | None
    """The file that the images are in, which the device is filled from; None without a cache."""


NO_CACHE = Rung("none", None)


def choose_rung(train_bytes: int, all_bytes: int, room: Room) -> Rung:
    """The fastest rung on which a data set fits with space to spare.

    On the device, if the training split takes a quarter of its free memory at most. Else in a file,
    if all of it stays in the page cache: read from a disk anew in each epoch, decoded images would
    be slower than the compressed ones, of which a disk delivers ten times as many. Else nowhere.

    Args:
        train_bytes: Decoded size of the training split.
        all_bytes: Decoded size of all splits that are used.
        room: What is free.
    """
    if all_bytes <= FILE_SHARE * min(room.disk, room.memory):
        file: FileMode = "disk"
    elif all_bytes <= FILE_SHARE / 2 * room.memory:  # once as a file in memory, once for training
        file = "ram"
    else:
        return NO_CACHE
    return Rung("device", file) if train_bytes <= DEVICE_SHARE * room.device else Rung(file, file)


def find_room(folder: Path, device: torch.device, cached_bytes: int = 0) -> Room:
    """What is free on a device, in memory, and on the disk of a folder.

    Args:
        folder: Of the cache files.
        device: Of the training.
        cached_bytes: What they take already.
    """
    memory = available_memory()
    on_device = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory
    # What is cached already has its place, however little is left beside it.
    disk = max(free_bytes(folder, "disk") + cached_bytes, int(cached_bytes / FILE_SHARE))
    return Room(on_device, memory, disk)
