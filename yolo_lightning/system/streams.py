"""The CUDA stream on which a batch is copied and augmented, beside the network's stream."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream of a CUDA device for copies and augmentation; what is put on it runs in order."""
    return torch.cuda.Stream(device)


def hand_over(tensors: Iterable[Tensor], stream: torch.cuda.Stream) -> None:
    """Let the current stream use tensors that ``stream`` is still making; the host does not wait.

    Their memory is not given to others before the current stream has done with them.
    """
    current = torch.cuda.current_stream(stream.device)
    current.wait_stream(stream)
    for tensor in tensors:
        tensor.record_stream(current)


def run_beside(
    device: torch.device, make: Callable[[], tuple[Tensor, ...]], after_current: bool
) -> tuple[Tensor, ...]:
    """Make tensors on the side stream and hand them over; on anything but CUDA simply make them.

    ``after_current`` tells that they depend on what the current stream has still to do.
    """
    if device.type != "cuda":
        return make()
    stream = side_stream(device)
    if after_current:
        stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        made = make()
    hand_over(made, stream)
    return made
