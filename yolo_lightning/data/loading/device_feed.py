"""Copies of batches to a GPU, made on a stream of their own while the GPU computes the step before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch

from ...system.streams import hand_over, side_stream
from ..batch import Batch


def copy_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Copy each batch to a GPU without waiting for the copy.

    Copies run on ``streams.side_stream``, where the augmentation follows them, so that neither waits
    for the step in progress. The host is about a step ahead of the GPU, which is all the prefetching
    needed: no batch has to be held back.

    A batch in page-locked memory is kept until its copy has finished; only then may a worker overwrite it.

    Args:
        batches: Batches in host memory or on the device.
        device: A CUDA device.
    """
    stream = side_stream(device)
    copying: deque[tuple[torch.cuda.Event, Batch]] = deque()
    try:
        while True:
            with torch.cuda.stream(stream):
                host = next(batches, None)
                if host is None:
                    return
                batch = Batch(*(tensor.to(device, non_blocking=True) for tensor in host))
                copied = torch.cuda.Event()
                copied.record(stream)
            copying.append((copied, host))
            del host
            while copying and copying[0][0].query():
                copying.popleft()
            hand_over(batch, stream)
            yield batch
    finally:
        for event, _ in copying:
            event.synchronize()
