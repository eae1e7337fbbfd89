"""Memory that ran out: known by the errors of every library, described with its figures."""

from __future__ import annotations

import errno
import re
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from .cores import free_in_group
from .text import one_line

_ON_GPU = re.compile(r"CUDA out of memory|CUDA error: out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED")
_ON_HOST = re.compile(
    r"can't allocate memory|Insufficient memory|Unable to allocate|std::bad_alloc"
    r"|Cannot allocate memory"
)
_BYTES = re.compile(r"(?:tried to allocate|Failed to allocate) (\d+) bytes")
_GPU_FIGURES = re.compile(r"Tried to allocate [^.]+\.\d+ \w+|total capacity of \S+ \w+|\S+ \w+ memory in use")


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from or beside."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def describe_out_of_memory(error: BaseException) -> str | None:
    """Describe what was asked for and what there is, in one line; None if no error says "out of memory"."""
    for each in chain(error):
        text = str(each)
        if isinstance(each, torch.OutOfMemoryError) or _ON_GPU.search(text):
            figures = ", ".join(_GPU_FIGURES.findall(text)).replace("Tried", "tried")
            return f"the GPU is out of memory ({figures or one_line(text.partition(chr(10))[0])})"
        is_enomem = isinstance(each, OSError) and each.errno == errno.ENOMEM
        # Without a limit of addresses a thread fails for the limit of processes, ulimit -u.
        is_thread = "can't start new thread" in text and _allowed_addresses() != resource.RLIM_INFINITY
        if isinstance(each, MemoryError) or is_enomem or is_thread or _ON_HOST.search(text):
            asked = _BYTES.search(text)
            figures = f"{int(asked[1]) / 1e6:,.1f} MB asked for, " if asked else ""
            return f"memory is used up ({figures}{_usage()})"
    return None


def _usage() -> str:
    """Memory that this process uses and may use, in one line."""
    usage, allowed = "", _allowed_addresses()
    with suppress(OSError, ValueError, IndexError):
        pages = Path("/proc/self/statm").read_text().split()
        size, resident = (int(number) * resource.getpagesize() / 1e9 for number in pages[:2])
        usage = f"this process holds {resident:.2f} GB"
        if allowed != resource.RLIM_INFINITY:
            return f"{usage} and has {size:.2f} GB of the {allowed / 1e9:.2f} GB of addresses of ulimit -v"
        memory = Path("/proc/meminfo").read_text()
        free = int(re.findall(r"MemAvailable:\s+(\d+) kB", memory)[0]) * 1024
        usage += f", {min(free, free_in_group()) / 1e9:.2f} GB are free"
    return usage


def _allowed_addresses() -> int:
    return resource.getrlimit(resource.RLIMIT_AS)[0]
