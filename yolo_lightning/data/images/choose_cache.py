"""Choice of the image cache of a stage, and of the number of loader workers, which depends on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch

from ...errors import InputError
from ..annotations.index import DatasetIndex
from ..annotations.source import Split
from ..cache_folder import FileMode, NoRoom, available_memory, disk_folder, free_bytes
from ..image_size import Size
from .cache import ImageCache, cache_path, open_cache

CacheMode = Literal["none", "disk", "ram", "device"]
CACHE_MODES: tuple[CacheMode, ...] = get_args(CacheMode)
"""Cache modes, from the slowest to the fastest."""
CacheOption = Literal["auto", CacheMode]

DEVICE_SHARE = 0.25  # part of the device's free memory that a training set may take; training needs the rest
FILE_SHARE = 0.5
"""Part of the free disk space and of the available memory that automatically chosen files may take."""

MOST_WORKERS = 16
_WORKERS_FROM_CACHE = 4  # workers that copy from a cache: a few processes use up the memory bandwidth


class Room(NamedTuple):
    """Free bytes."""

    device: int
    memory: int
    disk: int


class CacheChoice(NamedTuple):
    """A cache mode, and the file behind it."""

    mode: CacheMode
    file: FileMode | None  # holds the images, from which the device is filled; None without a cache


NO_CACHE = CacheChoice("none", None)


@dataclass(eq=False)
class CachePlan:
    """The cache of a stage: chosen once, built on first use.

    Raises:
        InputError: ``device`` was requested and has no room.
    """

    indices: Mapping[Split, DatasetIndex]  # splits of the stage; ``train`` is among them if the stage trains
    image_size: Size
    device: torch.device
    cores: int  # CPU cores that this process may use
    requested: CacheOption = "none"  # ``auto`` chooses by free space
    announce: Callable[[str], None] = lambda _: None  # gets each decision, as one line of text
    max_skipped: float = 0.0  # share of the images of a split that may fail

    def __post_init__(self) -> None:
        self._caches: dict[Split, ImageCache] = {}
        self.choice = self._choose()  # where decoded images are kept

    def _choose(self) -> CacheChoice:
        requested, trains = self.requested, "train" in self.indices
        # A cache does not pay for itself in a single pass over the images.
        if requested == "none" or (requested == "auto" and not trains):
            return NO_CACHE
        if requested == "disk" or requested == "ram":
            return CacheChoice(requested, requested)
        if not trains:  # only training images live on the device
            return CacheChoice("disk", "disk") if self.indices else NO_CACHE
        choice = self.fastest_fitting
        size = f"decoded, the training images take {self._decoded_bytes('train') / 1e9:.2f} GB"
        if requested == "auto":
            self.announce(f"cache: {choice.mode}; {size}")
        elif choice.mode != "device":
            limit = f"{DEVICE_SHARE:.0%} of what is free on {self.device}; set --data.cache auto or disk"
            if choice.file is None:
                limit = f"{FILE_SHARE:.0%} of the free disk space and memory; set --data.cache none"
            raise InputError(f"data.cache device: {size}, more than {limit}")
        return choice

    @cached_property
    def fastest_fitting(self) -> CacheChoice:
        """The fastest cache that had room for the images at the start, requested or not."""
        if not self.indices:
            return NO_CACHE
        cached = 0
        if self.requested != "none":  # otherwise, do not touch every image file
            files = [cache_path(i, self.image_size, s == "train", "disk") for s, i in self.indices.items()]
            cached = sum(file.stat().st_size for file in files if file.is_file())
        room = find_room(disk_folder(next(iter(self.indices.values())).root), self.device, cached)
        train = self._decoded_bytes("train" if "train" in self.indices else next(iter(self.indices)))
        return fastest_cache(train, sum(map(self._decoded_bytes, self.indices)), room)

    def _decoded_bytes(self, split: Split) -> int:
        return 3 * math.prod(self.image_size) * len(self.indices[split])

    def cache(self, split: Split) -> ImageCache | None:
        """The decoded images of a split, built on first use; None without a cache.

        Raises:
            InputError: There is too little room, or too many images cannot be read.
        """
        if self.choice.file is None:
            return None
        if split not in self._caches:
            index, train = self.indices[split], split == "train"
            try:
                self._caches[split] = open_cache(
                    index, self.image_size, train, self.choice.file, self.announce, self.max_skipped
                )
            except NoRoom as error:
                if self.requested != "auto":
                    raise
                self.announce(f"cache: falling back to none; {error}")
                self.choice = NO_CACHE
                return None
        return self._caches[split]

    def worker_count(self, split: Split | None, num_workers: int | Literal["auto"]) -> int:
        """Worker processes of a split's loader; ``split`` None means the images to predict on."""
        if split == "train" and self.choice.mode == "device":
            return 0
        if num_workers != "auto":
            return num_workers
        if self.device.type == "cpu":
            return 0  # training keeps every core busy; threads between two steps are as fast
        most = MOST_WORKERS if split is None or self.choice.file is None else _WORKERS_FROM_CACHE
        return max(1, min(most, self.cores))


def fastest_cache(train_bytes: int, all_bytes: int, room: Room) -> CacheChoice:
    """The fastest cache that holds the decoded training split, and all splits, with room to spare.

    1. The device, if the training split takes at most a quarter of its free memory.
    2. A file, if all of it stays in the page cache. Reading decoded images from a disk in every epoch
       would be slower than reading the compressed ones, which are about ten times smaller.
    3. None.
    """
    if all_bytes <= FILE_SHARE * min(room.disk, room.memory):
        file: FileMode = "disk"
    elif all_bytes <= FILE_SHARE / 2 * room.memory:  # once as a file in memory, once for training
        file = "ram"
    else:
        return NO_CACHE
    fits_on_device = train_bytes <= DEVICE_SHARE * room.device
    return CacheChoice("device" if fits_on_device else file, file)


def find_room(folder: Path, device: torch.device, cached_bytes: int = 0) -> Room:
    """Free space on a device, in memory, and on the disk of a folder with ``cached_bytes`` of cache files."""
    memory = available_memory()
    on_device = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory
    # Existing files need no new room, however little is left beside them.
    disk = max(free_bytes(folder, "disk") + cached_bytes, int(cached_bytes / FILE_SHARE))
    return Room(on_device, memory, disk)
