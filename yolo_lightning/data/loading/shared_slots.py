"""Shared memory for training batches, allocated once and reused.

The page faults of a fresh 79 MB cost more than decoding into it. The memory is mapped anonymously: the
kernel shares it with forked workers without /dev/shm and its limits.
"""

from __future__ import annotations

import mmap
import os
import platform
import warnings
import weakref
from collections import deque
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...errors import InputError
from ..batch import Batch
from ..images.decode import Pixels

_PAGE = 4096
_IS_LINUX = platform.system() == "Linux"


class SlotArrays(NamedTuple):
    """The fields of a training ``Batch`` in one slot, in its order, as writable arrays."""

    images: Pixels
    """uint8 (B, S, S, 3)."""
    targets: npt.NDArray[np.float32]
    count: npt.NDArray[np.int64]  # type: ignore[assignment]  # a tuple's method of this name is not used
    index: npt.NDArray[np.int64]  # type: ignore[assignment]  # likewise
    image_ids: npt.NDArray[np.int64]
    original_sizes: npt.NDArray[np.int64]
    letterbox: npt.NDArray[np.float32]


class Slots:
    """K slots, each with room for a training batch of B images of S x S px with N label rows.

    A slot is free, being written, or lent: as long as a tensor of its batch exists.

    Args:
        count: K.
        batch_size: B.
        image_size: S in px.
        capacity: N.

    Attributes:
        free: Slots that may be written.

    Raises:
        InputError: There is too little memory.
    """

    def __init__(self, count: int, batch_size: int, image_size: int, capacity: int) -> None:
        self.fields: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
            "images": ((batch_size, image_size, image_size, 3), np.uint8),
            "targets": ((batch_size, capacity, 5), np.float32),
            "count": ((batch_size,), np.int64),
            "index": ((batch_size,), np.int64),
            "image_ids": ((batch_size,), np.int64),
            "original_sizes": ((batch_size, 2), np.int64),
            "letterbox": ((batch_size, 4), np.float32),
        }
        self.count = count
        self.batch_size = batch_size
        self.slot_bytes = -(-sum(self._field_bytes().values()) // _PAGE) * _PAGE
        self.memory = _shared(count * self.slot_bytes)
        self.free: deque[int] = deque(range(count))
        self.is_pinned = False

    def _field_bytes(self) -> dict[str, int]:
        """Bytes of each field, rounded up to whole cache lines."""
        return {
            name: -(-int(np.prod(shape)) * np.dtype(kind).itemsize // 64) * 64
            for name, (shape, kind) in self.fields.items()
        }

    def arrays(self, slot: int) -> SlotArrays:
        """Views of a slot, to be written."""
        return SlotArrays(**self._views(self.memory.numpy(), slot))  # type: ignore[arg-type]  # by name

    def _views(self, memory: npt.NDArray[np.uint8], slot: int) -> dict[str, npt.NDArray[np.generic]]:
        begin, views = slot * self.slot_bytes, {}
        for (name, (shape, kind)), size in zip(
            self.fields.items(), self._field_bytes().values(), strict=True
        ):
            used = int(np.prod(shape)) * np.dtype(kind).itemsize
            views[name] = memory[begin : begin + used].view(kind).reshape(shape)
            begin += size
        return views

    def lend(self, slot: int) -> Batch:
        """The batch in a slot, without a copy; the slot is free again when the last of its tensors is gone.

        If no other slot is free, the batch is copied: kept batches stay intact, and workers always have a
        slot to write to.
        """
        if not self.free:
            batch = Batch(*(tensor.clone() for tensor in self._batch(self.memory.numpy(), slot)))
            self.free.append(slot)
            return batch
        # Views of an array made from a buffer keep that array alive; views of a view do not.
        own = np.frombuffer(self.memory.numpy().data, np.uint8)
        weakref.finalize(own, self.free.append, slot).atexit = False
        return self._batch(own, slot)

    def _batch(self, memory: npt.NDArray[np.uint8], slot: int) -> Batch:
        tensors = {name: torch.from_numpy(view) for name, view in self._views(memory, slot).items()}
        images = tensors.pop("images").permute(0, 3, 1, 2)  # (B, 3, S, S), channels last
        nothing = torch.zeros(self.batch_size, 0, 7)
        return Batch(images=images, **tensors, truth=nothing, truth_count=torch.zeros_like(tensors["count"]))

    def pin(self) -> None:
        """Page-lock the memory, so that a GPU copies from it without the host waiting."""
        if self.is_pinned:
            return
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


def _unpin(address: int, process: int, memory: Tensor) -> None:
    """Undo :meth:`Slots.pin` in the process that did it; ``memory`` is only kept alive until then."""
    if os.getpid() == process:
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaHostUnregister(address)


def _shared(size: int) -> Tensor:
    """uint8 (size,) that worker processes share."""
    try:
        if _IS_LINUX:
            return torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8)
        return torch.empty(size, dtype=torch.uint8).share_memory_()
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"the loader cannot have {size / 1e9:.1f} GB of memory for its batches ({error}); "
            "set a smaller --data.batch_size or --data.num_workers"
        ) from None
