"""Memory: shared with worker processes, and kept by the C library's allocator for the next step."""

from __future__ import annotations

import ctypes
import mmap
import platform

import torch
from torch import Tensor

_IS_LINUX = platform.system() == "Linux"

# Of glibc's malloc.h; see mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1
_TOP_PAD_BYTES = 64 * 2**20


def shared_memory(size: int) -> Tensor:
    """uint8 (size,) of zeros that worker processes share.

    It is mapped anonymously: the kernel shares it with forked workers without /dev/shm and its limits.

    Raises:
        OSError, RuntimeError: There is too little memory.
    """
    if _IS_LINUX:
        return torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8)
    return torch.zeros(size, dtype=torch.uint8).share_memory_()


def keep_freed_memory() -> bool:
    """Have large tensors of a CPU reuse memory of this process instead of asking the system each time.

    By default glibc maps blocks of more than 32 MB anew and unmaps them when they are freed, and gives
    the end of its heap back. A training step on a CPU frees and allocates some hundred megabytes, and
    every page of them would be mapped and zeroed again.

    Returns:
        Whether the allocator is glibc's and took it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl and macOS have none
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _TOP_PAD_BYTES))
    return all(mallopt(name, value) == 1 for name, value in settings)
