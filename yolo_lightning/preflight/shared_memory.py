"""How much of /dev/shm a host needs."""

from __future__ import annotations

from typing import Literal

from ..data.cores import usable_cores
from ..data.placement import MOST_WORKERS

_PREFETCH = 2
"""Batches that each worker of torch's loader makes ahead."""
_MARGIN = 64
"""By how much the rectangles of evaluation are longer than the image size at most, in px: a stride of P6."""


def evaluation_bytes(
    image_size: int, batch_size: int, num_workers: int | Literal["auto"], processes: int, on_gpu: bool
) -> int:
    """What the batches of evaluation take while they are handed over, at most, by all processes of a host.

    The loader of training maps its memory in another way.

    Args:
        image_size: S in px.
        batch_size: B.
        num_workers: as ``data.num_workers``.
        processes: of the run on this host.
        on_gpu: whether it trains on GPUs; on a CPU ``auto`` means no workers.
    """
    workers = 0
    if num_workers != "auto":
        workers = num_workers
    elif on_gpu:
        workers = max(1, min(MOST_WORKERS, usable_cores() // processes))
    return processes * workers * _PREFETCH * batch_size * 3 * (image_size + _MARGIN) ** 2  # uint8
