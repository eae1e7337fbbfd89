"""Where the images of a stage come from: the rung of the cache, and how many workers that takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from ...errors import InputError
from ..annotations.index import DatasetIndex
from ..annotations.source import Split
from ..cache_folder import FileMode, NoRoom, available_memory, free_bytes
from .cache import ImageCache, cache_folder, cache_path, open_cache

MOST_WORKERS = 16
_WORKERS_FROM_CACHE = 4
"""Copying from a file is memory bandwidth, which a few processes exhaust."""


class Placement:
    """Decides once for a stage, and builds the caches.

    Args:
        indices: The splits of the stage; ``train`` among them when it is to be trained.
        image_size: S in px.
        device: Of the training.
        cores: CPU cores that this process may use.
        cache: As asked for; ``auto`` decides by what is free.
        announce: Is told what was decided.

    Attributes:
        rung: Where decoded images are kept.

    Raises:
        InputError: ``device`` was asked for and has no room.
    """

    def __init__(
        self,
        indices: Mapping[Split, DatasetIndex],
        image_size: int,
        device: torch.device,
        cores: int,
        cache: CacheMode = "none",
        announce: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.indices = dict(indices)
        self.image_size = image_size
        self.device = device
        self.cores = cores
        self.announce = announce
        self.asked = cache
        self._caches: dict[Split, ImageCache] = {}
        self.rung = self._rung(cache)

    def _rung(self, cache: CacheMode) -> Rung:
        # One pass over images does not pay for keeping them.
        if cache == "none" or (cache == "auto" and "train" not in self.indices):
            return NO_CACHE
        if cache == "disk" or cache == "ram":
            return Rung(cache, cache)
        if "train" not in self.indices:  # the device is for training; its file serves the rest
            return Rung("disk", "disk") if self.indices else NO_CACHE
        rung = self.fitting_rung
        size = f"decoded, the training images take {self._decoded_bytes('train') / 1e9:.2f} GB"
        if cache == "auto":
            self.announce(f"cache: {rung.cache}; {size}")
        elif rung.cache != "device":
            full = f"{DEVICE_SHARE:.0%} of what is free on {self.device}; set --data.cache auto or disk"
            if rung.file is None:
                full = f"{FILE_SHARE:.0%} of the free disk and memory have room for; set --data.cache none"
            raise InputError(f"data.cache device: {size}, more than {full}")
        return rung

    @cached_property
    def fitting_rung(self) -> Rung:
        """The fastest rung that had room for the images at the start, whether or not it was asked for."""
        if not self.indices:
            return NO_CACHE
        cached = 0
        if self.asked != "none":  # else there is no reason to look at every image
            files = [cache_path(i, self.image_size, s == "train", "disk") for s, i in self.indices.items()]
            cached = sum(file.stat().st_size for file in files if file.is_file())
        room = find_room(cache_folder(next(iter(self.indices.values())), "disk"), self.device, cached)
        train = self._decoded_bytes("train" if "train" in self.indices else next(iter(self.indices)))
        return choose_rung(train, sum(map(self._decoded_bytes, self.indices)), room)

    def _decoded_bytes(self, split: Split) -> int:
        return 3 * self.image_size**2 * len(self.indices[split])

    def cache(self, split: Split) -> ImageCache | None:
        """The decoded images of a split, built if there are none yet; None on the rung without a cache.

        Raises:
            InputError: There is too little room, or an image cannot be read.
        """
        if self.rung.file is None:
            return None
        if split not in self._caches:
            index, train = self.indices[split], split == "train"
            try:
                self._caches[split] = open_cache(index, self.image_size, train, self.rung.file, self.announce)
            except NoRoom as error:
                if self.asked != "auto":
                    raise
                self.announce(f"cache: none after all; {error}")
                self.rung = NO_CACHE
                return None
        return self._caches[split]

    def worker_count(self, split: Split | None, num_workers: int | Literal["auto"]) -> int:
        """Worker processes of the loader of a split; None stands for the images of predict."""
        if split == "train" and self.rung.cache == "device":
            return 0
        if num_workers != "auto":
            return num_workers
        if self.device.type == "cpu":
            return 0  # training keeps every core busy: threads between two steps do as well
        most = MOST_WORKERS if split is None or self.rung.file is None else _WORKERS_FROM_CACHE
        return max(1, min(most, self.cores))


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
