"""Shared memory for training batches, allocated once and reused.

The page faults of a fresh 79 MB cost more than decoding into it.
"""

from __future__ import annotations

import math
import os
import warnings
import weakref
from collections import deque
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...errors import InputError
from ...system.memory import shared_memory
from ..batch import Batch
from ..image_size import Size

_PAGE, _CACHE_LINE = 4096, 64


class Slots:
    """Slots, each with room for a training batch of images of ``image_size`` with ``capacity`` labels.

    A slot is free, being written, or lent: as long as a tensor of its batch exists.

    Attributes:
        free: Slots that may be written.

    Raises:
        InputError: There is too little memory.
    """

    def __init__(self, count: int, batch_size: int, image_size: Size, capacity: int) -> None:
        self.count = count
        self.batch_size = batch_size
        fields: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
            "images": ((batch_size, *image_size, 3), np.uint8),
            "targets": ((batch_size, capacity, 5), np.float32),
            "count": ((batch_size,), np.int64),
            "index": ((batch_size,), np.int64),
            "image_ids": ((batch_size,), np.int64),
            "original_sizes": ((batch_size, 2), np.int64),
            "letterbox": ((batch_size, 4), np.float32),
        }
        self._places: dict[str, tuple[slice, tuple[int, ...], type[np.generic]]] = {}
        """Bytes of each field in a slot, its shape and its type."""
        end = 0
        for name, (shape, kind) in fields.items():
            begin = _round_up(end, _CACHE_LINE)
            end = begin + math.prod(shape) * np.dtype(kind).itemsize
            self._places[name] = slice(begin, end), shape, kind
        self.slot_bytes = _round_up(end, _PAGE)
        self.memory = _shared(count * self.slot_bytes)
        self.free: deque[int] = deque(range(count))
        self.is_pinned = False

    def arrays(self, slot: int) -> dict[str, npt.NDArray[Any]]:
        """The fields of a training ``Batch`` in a slot, in its order, to be written; images (B, H, W, 3)."""
        return self._views(self.memory.numpy(), slot)

    def _views(self, memory: npt.NDArray[np.uint8], slot: int) -> dict[str, npt.NDArray[Any]]:
        own = memory[slot * self.slot_bytes :]
        return {name: own[at].view(kind).reshape(shape) for name, (at, shape, kind) in self._places.items()}

    def lend(self, slot: int) -> Batch:
        """The batch in a slot, without a copy; the slot is free again when the last of its tensors is gone.

        If no other slot is free, the batch is copied: kept batches stay intact, and workers always have a
        slot to write to.
        """
        if not self.free:
            batch = self._batch(self.memory.numpy(), slot).map(torch.clone)
            self.free.append(slot)
            return batch
        # Views of an array made from a buffer keep that array alive; views of a view do not.
        own = np.frombuffer(self.memory.numpy().data, np.uint8)
        weakref.finalize(own, self.free.append, slot).atexit = False
        return self._batch(own, slot)

    def _batch(self, memory: npt.NDArray[np.uint8], slot: int) -> Batch:
        tensors = {name: torch.from_numpy(view) for name, view in self._views(memory, slot).items()}
        images = tensors.pop("images").permute(0, 3, 1, 2)  # (B, 3, H, W), channels last
        nothing = torch.zeros(self.batch_size, 0, 7)
        empty = torch.zeros_like(tensors["count"])
        return Batch(images=images, **tensors, truth=nothing, truth_count=empty, on_host=None)

    def pin(self) -> None:
        """Page-lock the memory, so that a GPU copies from it without the host waiting."""
        runtime, address = torch.cuda.cudart(), self.memory.data_ptr()
        status = int(runtime.cudaHostRegister(address, self.memory.numel(), 0))
        if status:
            warnings.warn(f"the loader's memory cannot be page-locked (CUDA error {status})", stacklevel=2)
            with suppress(RuntimeError):  # or the next kernel would raise the error
                torch.zeros(1, device="cuda")
            return
        self.is_pinned = True
        # The next mapping may get the same address. Runs before the memory itself is released.
        weakref.finalize(self, _unpin, address, os.getpid(), self.memory)


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _unpin(address: int, process: int, memory: Tensor) -> None:
    """Undo :meth:`Slots.pin` in the process that did it; ``memory`` is only kept alive until then."""
    if os.getpid() == process:
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaHostUnregister(address)


def _shared(size: int) -> Tensor:
    """uint8 (size,) that worker processes share."""
    try:
        return shared_memory(size)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"the loader cannot have {size / 1e9:.1f} GB of memory for its batches ({error}); "
            "set a smaller --data.batch_size or --data.num_workers"
        ) from None
