"""Batches onto a GPU, copied on a stream of their own while the GPU computes the step before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

import torch

from ...system.streams import hand_over, side_stream
from ..batch import Batch
from .sampler import TrainSampler
from .shared_slots import Slots


class BatchLoader(Protocol):
    """What gives batches: a ``TrainLoader`` or a ``ResidentLoader``."""

    @property
    def sampler(self) -> TrainSampler: ...

    @property
    def workers(self) -> int: ...

    @property
    def read_fraction(self) -> float: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...

    def earlier(self, batches: int) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class DeviceFeed:
    """Copies each batch to the GPU; the host goes on at once.

    Copies run on ``streams.side_stream``, where the augmentation follows them, so that neither waits
    for the step that the GPU is at. The host is ahead of the GPU by about a step, and that is the
    whole of the prefetching: no batch has to be held back.

    A batch in page-locked memory is kept until its copy has finished; only then may a worker write
    over it.

    Args:
        loader: Gives batches in host memory or on the device.
        device: A CUDA device.
        slots: The memory of the batches, to be page-locked; None if they are on the device.
    """

    def __init__(self, loader: BatchLoader, device: torch.device, slots: Slots | None = None) -> None:
        self.loader = loader
        self.sampler = loader.sampler
        self.device = device
        if slots is not None:
            slots.pin()

    @property
    def workers(self) -> int:
        return self.loader.workers

    @property
    def read_fraction(self) -> float:
        return self.loader.read_fraction

    def __len__(self) -> int:
        return len(self.loader)

    def earlier(self, batches: int) -> Iterator[Batch]:
        """See ``OrderedLoader.earlier``; in host memory."""
        return self.loader.earlier(batches)

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loader.load_state_dict(state_dict)

    def close(self) -> None:
        """End the workers."""
        self.loader.close()

    def __iter__(self) -> Iterator[Batch]:
        stream = side_stream(self.device)
        copying: deque[tuple[torch.cuda.Event, Batch]] = deque()
        batches = iter(self.loader)
        try:
            while True:
                with torch.cuda.stream(stream):
                    host = next(batches, None)
                    if host is None:
                        return
                    batch = Batch(*(tensor.to(self.device, non_blocking=True) for tensor in host))
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
