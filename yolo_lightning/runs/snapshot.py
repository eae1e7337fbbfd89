"""Copies of what is to be saved, on the CPU, so that training continues while they are written."""

from __future__ import annotations

import copy
from collections import defaultdict, deque
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter


class Snapshot(NamedTuple):
    """A deep copy with every tensor on the CPU."""

    contents: Any
    memory: list[tuple[Hashable, Tensor]]  # for the values of its tensors, each with its kind of tensor


class Snapshots:
    """Takes snapshots of what changes, in memory that is used again.

    A call of torch lets go of the interpreter's lock, and a thread that computes in Python, such as one
    that draws, then has it for 5 ms (``sys.getswitchinterval``). With a few calls for each of a thousand
    tensors a snapshot would take seconds beside such a thread. One that finds its memory ready needs a
    single call for all of them.
    """

    def __init__(self) -> None:
        self._free: defaultdict[Hashable, list[Tensor]] = defaultdict(list)
        self._returned: deque[list[tuple[Hashable, Tensor]]] = deque()

    def take(self, contents: object) -> Snapshot:
        """Copy; nothing in the snapshot changes when training continues.

        Tensors that are the same memory (address, shape, strides, dtype) are copied once and are the same
        memory in the copy. Strides are kept where no element of a tensor lies on another, so that
        ``channels_last`` survives. Copies from CUDA devices run together, and each device is waited for once.
        """
        while self._returned:
            for kind, values in self._returned.popleft():
                self._free[kind].append(values)
        memo: dict[int, Any] = {}
        sources: dict[Hashable, Tensor] = {}
        targets: dict[Hashable, tuple[Hashable, Tensor]] = {}
        for tensor in tensors_in(contents):
            kind = tensor.shape, tensor.stride(), tensor.dtype, tensor.device
            place = tensor.data_ptr(), kind
            if place not in targets:
                sources[place] = tensor
                targets[place] = kind, self._free[kind].pop() if self._free[kind] else _host_memory(tensor)
            memo[id(tensor)] = _like(tensor, targets[place][1])
        memory = list(targets.values())
        _copy_all(list(sources.values()), [values for _, values in memory])
        free_bytes = sum(values.nbytes for free in self._free.values() for values in free)
        if free_bytes > sum(values.nbytes for _, values in memory):  # else the next may need it: gradients
            self._free.clear()
        return Snapshot(copy.deepcopy(contents, memo), memory)

    def give_back(self, snapshot: Snapshot) -> None:
        """Let the memory be used again; the snapshot must not be read any more. Any thread may call this."""
        self._returned.append(snapshot.memory)


def _host_memory(tensor: Tensor) -> Tensor:
    """Room for the values on the CPU, pinned for those of a CUDA device."""
    with torch.inference_mode(False):  # or else only snapshots of evaluation could be taken there
        return torch.empty_like(
            tensor.detach(), device="cpu", memory_format=torch.preserve_format, pin_memory=tensor.is_cuda
        )


@torch.no_grad()
def _copy_all(sources: list[Tensor], targets: list[Tensor]) -> None:
    """Copy in one call, and wait for the CUDA devices that values come from; others wait by themselves."""
    devices = {source.device for source in sources}
    if sources:
        can_wait = all(device.type in ("cpu", "cuda") for device in devices)
        torch._foreach_copy_(targets, sources, non_blocking=can_wait)
    for device in devices:
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    if isinstance(tensor, Parameter):
        return Parameter(values, requires_grad=tensor.requires_grad)
    return values.detach().requires_grad_() if tensor.requires_grad else values


def tensors_in(contents: object) -> Iterator[Tensor]:
    """Every dense tensor in nested dictionaries, lists, tuples and sets, in no particular order."""
    found, entered = [contents], set[int]()
    while found:
        value = found.pop()
        if isinstance(value, Tensor):
            if type(value) in (Tensor, Parameter) and value.layout == torch.strided:
                yield value
        elif isinstance(value, (list, tuple, set, frozenset, Mapping)) and id(value) not in entered:
            entered.add(id(value))
            found.extend(value.values() if isinstance(value, Mapping) else value)


def bytes_in(contents: object) -> int:
    """Bytes of the tensors, each memory counted once."""
    return sum(size for _, size in {(tensor.data_ptr(), tensor.nbytes) for tensor in tensors_in(contents)})
