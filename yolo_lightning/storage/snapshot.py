"""Copies of what is to be saved, on the CPU, so that training goes on while they are written."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

Contents = TypeVar("Contents")


def snapshot(contents: Contents) -> Contents:
    """A deep copy with every tensor on the CPU; nothing in it changes when training goes on.

    Tensors that are the same memory (address, shape, strides, dtype) are copied once and are the same
    memory in the copy. Strides are kept where no element of a tensor lies on another, so that
    ``channels_last`` survives. Copies from CUDA devices run together, and each device is waited for once.

    Args:
        contents: dictionaries, lists and tuples, nested, of tensors and plain values.
    """
    memo: dict[int, Any] = {}
    copies: dict[Hashable, Tensor] = {}
    streams: dict[torch.device, torch.cuda.Stream] = {}
    with torch.no_grad():
        for tensor in tensors_in(contents):
            key = identity(tensor)
            if key not in copies:
                copies[key] = _host_copy(tensor)
                if tensor.is_cuda:
                    streams[tensor.device] = torch.cuda.current_stream(tensor.device)
            memo[id(tensor)] = _like(tensor, copies[key])
    for stream in streams.values():
        stream.synchronize()
    return copy.deepcopy(contents, memo)


def _host_copy(tensor: Tensor) -> Tensor:
    """The values on the CPU; from a CUDA device they are there only when its stream has come so far."""
    source = tensor.detach()
    # The allocator keeps pinned memory for the next time, so that only the first snapshot pays for it.
    target = torch.empty_like(
        source, device="cpu", memory_format=torch.preserve_format, pin_memory=source.is_cuda
    )
    return target.copy_(source, non_blocking=source.is_cuda)


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    """A tensor of its own over these values, of the same kind as ``tensor``."""
    if isinstance(tensor, Parameter):
        return Parameter(values, requires_grad=tensor.requires_grad)
    return values.detach().requires_grad_(tensor.requires_grad)


def tensors_in(contents: object) -> Iterator[Tensor]:
    """Every dense tensor in nested dictionaries, lists, tuples and sets."""
    if isinstance(contents, Tensor):
        if type(contents) in (Tensor, Parameter) and contents.layout == torch.strided:
            yield contents
    elif isinstance(contents, Mapping):
        for value in contents.values():
            yield from tensors_in(value)
    elif isinstance(contents, (list, tuple, set, frozenset)):
        for value in contents:
            yield from tensors_in(value)


def identity(tensor: Tensor) -> Hashable:
    """Equal for tensors that are the same memory, seen in the same way."""
    return tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def bytes_in(contents: object) -> int:
    """Bytes of the tensors, each memory counted once."""
    return sum({identity(tensor): tensor.nbytes for tensor in tensors_in(contents)}.values())
