"""Memory in which batches are made: allocated once, shared with the workers, used again and again.

What a fresh 79 MB costs in page faults is more than what decoding into it costs. The memory is mapped
anonymously, which the kernel shares with forked workers without /dev/shm and its limits.
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
    """The fields of a training ``Batch`` in one slot, as arrays to write to."""

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

    A slot is free, being written, or lent to whoever holds a tensor of the batch that was made in it.

    Args:
        count: K.
        batch_size: B.
        image_size: S in px.
        capacity: N.

    Attributes:
        free: Slots that may be written.

    Raises:
        InputError: There is not so much memory.
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
        """The batch in a slot, without a copy; the slot is free again when its last tensor is gone.

        Where no other slot is free, the batch is copied instead: whoever keeps many batches gets
        them whole, and the workers always have a slot to write to.
        """
        if not self.free:
            batch = Batch(*(tensor.clone() for tensor in self._batch(self.memory.numpy(), slot)))
            self.free.append(slot)
            return batch
        # Views of an array made from a buffer keep that very array alive, views of a view do not.
        own = np.frombuffer(self.memory.numpy().data, np.uint8)
        weakref.finalize(own, self.free.append, slot).atexit = False
        return self._batch(own, slot)

    def _batch(self, memory: npt.NDArray[np.uint8], slot: int) -> Batch:
        tensors = {name: torch.from_numpy(view) for name, view in self._views(memory, slot).items()}
        images = tensors.pop("images").permute(0, 3, 1, 2)  # (B, 3, S, S), channels last
        nothing = torch.zeros(self.batch_size, 0, 7)
        return Batch(images=images, **tensors, truth=nothing, truth_count=torch.zeros_like(tensors["count"]))

    def pin(self) -> None:
        """Lock the memory in place, so that a GPU copies from it while the host goes on."""
        if self.is_pinned:
            return
        runtime, address = torch.cuda.cudart(), self.memory.data_ptr()
        status = int(runtime.cudaHostRegister(address, self.memory.numel(), 0))
        if status:
            warnings.warn(f"the loader's memory cannot be page-locked (CUDA error {status})", stacklevel=2)
            with suppress(RuntimeError):  # the error would come up in the next kernel, whatever that is
                torch.zeros(1, device="cuda")
            return
        self.is_pinned = True
        # The next mapping may get this very address. Runs before the memory itself is let go.
        weakref.finalize(self, _unpin, address, os.getpid(), self.memory)


def _unpin(address: int, process: int, memory: Tensor) -> None:
    """Undo :meth:`Slots.pin`, in the process that did it; ``memory`` is only held until then."""
    if os.getpid() == process:
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaHostUnregister(address)


def _shared(size: int) -> Tensor:
    """uint8 (size,) that forked processes share; where processes are not forked, in torch's shared memory."""
    try:
        if _IS_LINUX:
            return torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8)
        return torch.empty(size, dtype=torch.uint8).share_memory_()
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"the loader cannot have {size / 1e9:.1f} GB of memory for its batches ({error}); "
            "set a smaller --data.batch_size or --data.num_workers"
        ) from None
