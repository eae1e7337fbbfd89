"""Facts about data and training loader that callbacks ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, cast

from ..annotations.index import DatasetIndex
from ..images.choose_cache import CacheMode


class Loading(NamedTuple):
    """Facts of a training loader."""

    cache: CacheMode  # the cache in use
    workers: int  # worker processes of the loader; 0 where the main process loads
    cores: int  # CPU cores that this process may use: affinity, cgroup quota and Slurm's allocation
    read_fraction: float  # part of the loader's own time that went into reading files, 0..1; NaN: unknown
    fitting_cache: CacheMode | None  # the fastest cache that the training set fits in; None if there is none


class TellsLoading(Protocol):
    """A data module that callbacks can ask about its data; such a data module derives from this class."""

    indices: Mapping[Any, DatasetIndex]  # index of each split that was read so far: "train", "val" or "test"

    @property
    def loading(self) -> Loading:
        """Facts of the training loader."""


def data_that_tells(trainer: Any) -> TellsLoading | None:
    """The data module of a run; None for other data."""
    data = getattr(trainer, "datamodule", None)
    return cast(TellsLoading, data) if TellsLoading in type(data).__mro__ else None
