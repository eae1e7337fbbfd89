"""Operations and bytes of a training step, counted, and what they come to a second."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class ByteCounter(TorchDispatchMode):
    """Sums what each eager operation reads and writes, as if nothing stayed in a cache.

    Views move nothing and count nothing. Compiled code fuses operations and moves less.

    Attributes:
        total: bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.total += sum(_bytes(t) for t in _tensors((args, kwargs))) + sum(
                _bytes(t) for t in _tensors(result)
            )
        return result


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def count_flops(step: Callable[[], Any]) -> int:
    """Floating-point operations of what ``step`` does eagerly, backward pass included.

    Convolutions and matrix products alone are counted, a multiplication with its addition as two.
    """
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def count_bytes(step: Callable[[], Any]) -> int:
    """Bytes that the operations of ``step`` read and write, see :class:`ByteCounter`."""
    with ByteCounter() as counter:
        step()
    return counter.total


def at_batch(small: tuple[int, float], larger: tuple[int, float], batch_size: int) -> float:
    """A count at one batch size from those at two others: a part for the weights, and one an image.

    Args:
        small: a batch size and what was counted with it.
        larger: another, larger one.
        batch_size: the one that is wanted.
    """
    an_image = (larger[1] - small[1]) / (larger[0] - small[0])
    return small[1] + an_image * (batch_size - small[0])


def per_second(count: float, ms: float, unit: float) -> float:
    """What a count comes to a second, in units of ``unit``: 1e12 for TFLOP/s, 1e9 for GB/s.

    Args:
        count: of one step.
        ms: duration of the step in ms.
        unit: by which to divide.
    """
    return count / (ms / 1000) / unit


def fraction(achieved: float, peak: float | None) -> float | None:
    """Part of a peak that was achieved, 0..1; None where the peak is not known."""
    return achieved / peak if peak and math.isfinite(achieved) else None


def device_is_done(device: str) -> None:
    """Return when the device has done all that was launched."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
