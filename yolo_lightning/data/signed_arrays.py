"""Files of arrays with a signature: who made the data set may have made the file, to be read in its place."""

from __future__ import annotations

import hmac
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..system.files import remove_leftovers, whole_file
from .cache_folder import sign

Array = npt.NDArray[Any]


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an uncompressed ``.npz`` and its signature, and remove the files that it replaces.

    These have its name up to the last ``_``.

    Raises:
        OSError: It cannot be written.
    """
    remove_leftovers(path.parent)
    with whole_file(path, sync=False) as temporary, temporary.open("xb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        file.write(sign(temporary.read_bytes()))
    family = path.name.rsplit("_", 1)[0]
    for stale in path.parent.glob(f"{family}_*"):
        if stale != path:
            stale.unlink(missing_ok=True)


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays in a file.

    Raises:
        Exception: There is no file, it is damaged or forged; errors of nearly every kind.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as opened:
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            if not hmac.compare_digest(data[-32:], sign(data[:-32])):
                raise ValueError(f"{path} has another signature")
        with np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
