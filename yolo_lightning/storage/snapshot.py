"""Copies of what is to be saved, on the CPU, so that training goes on while they are written."""

from __future__ import annotations

import copy
from collections import defaultdict, deque
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


@dataclass(frozen=True)
class Snapshot:
    """A deep copy with every tensor on the CPU."""

    contents: Any
    memory: list[tuple[Hashable, Tensor]] = field(repr=False)
    """What the values of its tensors lie in, each with the kind of tensor that it is for."""


class Snapshots:
    """Takes snapshots of what changes, in memory that is used again.

    A call of torch lets go of the interpreter's lock, and a thread that computes in Python, such as one
    that draws, then has it for 5 ms (``sys.getswitchinterval``). With a few calls for each of a thousand
    tensors a snapshot would take seconds beside such a thread. One that finds its memory ready needs a
    single call for all of them.
    """

    def __init__(self) -> None:
        self._returned: deque[list[tuple[Hashable, Tensor]]] = deque()

    def take(self, contents: object) -> Snapshot:
        """Copy; nothing in the snapshot changes when training goes on.

        Tensors that are the same memory (address, shape, strides, dtype) are copied once and are the same
        memory in the copy. Strides are kept where no element of a tensor lies on another, so that
        ``channels_last`` survives. Copies from CUDA devices run together, and each device is waited for once.

        Args:
            contents: dictionaries, lists and tuples, nested, of tensors and plain values.
        """
        free = self._free_memory()
        memo: dict[int, Any] = {}
        sources: dict[Hashable, Tensor] = {}
        targets: dict[Hashable, tuple[Hashable, Tensor]] = {}
        for tensor in tensors_in(contents):
            place = identity(tensor)
            if place not in targets:
                kind = tensor.shape, tensor.stride(), tensor.dtype, tensor.is_cuda
                sources[place] = tensor
                targets[place] = kind, free[kind].pop() if free[kind] else _host_memory(tensor)
            memo[id(tensor)] = _like(tensor, targets[place][1])
        _copy_all(list(sources.values()), [values for _, values in targets.values()])
        return Snapshot(copy.deepcopy(contents, memo), list(targets.values()))

    def give_back(self, snapshot: Snapshot) -> None:
        """Let the memory be used again; the snapshot must not be read any more. Any thread may call this."""
        self._returned.append(snapshot.memory)

    def _free_memory(self) -> defaultdict[Hashable, list[Tensor]]:
        """What was given back, by kind; what the next snapshot does not need of it is let go."""
        free: defaultdict[Hashable, list[Tensor]] = defaultdict(list)
        while self._returned:
            for kind, values in self._returned.popleft():
                free[kind].append(values)
        return free


def _host_memory(tensor: Tensor) -> Tensor:
    """Room for the values on the CPU, pinned for those of a CUDA device."""
    return torch.empty_like(
        tensor.detach(), device="cpu", memory_format=torch.preserve_format, pin_memory=tensor.is_cuda
    )


@torch.no_grad()
def _copy_all(sources: list[Tensor], targets: list[Tensor]) -> None:
    """Copy in one call, and wait for the devices that the values come from."""
    if sources:
        torch._foreach_copy_(targets, sources, non_blocking=True)
    for device in {source.device for source in sources if source.is_cuda}:
        torch.cuda.current_stream(device).synchronize()


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    """A tensor over these values, of the same kind as ``tensor``."""
    if isinstance(tensor, Parameter):
        return Parameter(values, requires_grad=tensor.requires_grad)
    return values.detach().requires_grad_() if tensor.requires_grad else values


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
