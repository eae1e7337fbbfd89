"""Errors of every library that mean "out of memory", raised for real except those of a GPU."""

import re
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from mmap import mmap

import cv2
import numpy as np
import pytest
import torch

from yolo_lightning.system.out_of_memory import describe_out_of_memory

HUGE = 1 << 60
ON_A_GPU = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.65 GiB of which 1.50 "
    "GiB is free. Including non-PyTorch memory, this process has 22.10 GiB memory in use. Of the allocated "
    "memory 21.00 GiB is allocated by PyTorch, and 512.00 MiB is reserved by PyTorch but unallocated. If "
    "reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True "
    "to avoid fragmentation.  See documentation for Memory Management"
)
"""Message of torch on a card of 24 GiB."""


@pytest.mark.parametrize(
    ("allocate", "asked"),
    [
        (lambda: torch.empty(HUGE, dtype=torch.uint8), "1,152,921,504,606.8 MB asked for, "),
        (lambda: bytearray(HUGE), ""),
        (lambda: np.empty(HUGE, np.uint8), ""),
        (
            lambda: cv2.resize(np.zeros((9, 9, 3), np.uint8), (1 << 22, 1 << 22)),
            "52,776,558.1 MB asked for, ",
        ),
        (lambda: mmap(-1, HUGE), ""),
    ],
    ids=["torch", "Python", "NumPy", "OpenCV", "the system"],
)
def test_memory_of_the_host(allocate: Callable[[], object], asked: str) -> None:
    with pytest.raises(Exception) as raised:  # of each library another
        allocate()
    told = describe_out_of_memory(raised.value)
    figures = r"this process holds [\d.]+ GB, [\d.]+ GB are free"
    assert told is not None
    assert re.fullmatch(rf"memory is used up \({re.escape(asked)}{figures}\)", told)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_the_limit_of_addresses_is_named(error: Exception) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 50, before[1]))
    try:
        told = describe_out_of_memory(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert told is not None and told.endswith(" of the 1125899.91 GB of addresses of ulimit -v)")


def test_too_many_threads_are_no_lack_of_memory() -> None:
    assert describe_out_of_memory(RuntimeError("can't start new thread")) is None  # ulimit -u


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            torch.OutOfMemoryError(ON_A_GPU),
            "tried to allocate 2.00 GiB, total capacity of 23.65 GiB, 22.10 GiB memory in use",
        ),
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be …"),
            "CUDA error: out of memory",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        ),
    ],
)
def test_memory_of_a_gpu(error: Exception, told: str) -> None:
    assert describe_out_of_memory(error) == f"the GPU is out of memory ({told})"


def test_the_cause_of_another_error_counts_and_other_errors_do_not() -> None:
    def fail() -> None:
        try:
            raise torch.OutOfMemoryError(ON_A_GPU)
        except RuntimeError:
            raise KeyError("while it was handled") from None

    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyError) as raised:
        pool.submit(fail).result()
    assert (describe_out_of_memory(raised.value) or "").startswith("the GPU is out of memory")
    assert describe_out_of_memory(RuntimeError("shapes do not match")) is None
    assert describe_out_of_memory(OSError(28, "No space left on device")) is None
