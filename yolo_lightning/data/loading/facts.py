"""Facts about the training loader that the stall diagnosis needs."""

from __future__ import annotations

from typing import NamedTuple

from ..images.choose_cache import CacheMode


class Loading(NamedTuple):
    """Facts of a training loader."""

    cache: CacheMode
    """The cache in use."""
    workers: int
    """Worker processes of the loader; 0 where the main process loads."""
    cores: int
    """CPU cores that this process may use: affinity, cgroup quota and Slurm's allocation."""
    read_fraction: float
    """Part of the loader's own time that went into reading files, 0..1; the rest decodes. NaN: unknown."""
    fitting_cache: CacheMode | None
    """The fastest cache that the training set fits in; None if there is none."""
