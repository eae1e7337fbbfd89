"""Trace of operators: the memory of their tensors by purpose, and their arithmetic and traffic."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from .allocator import Block, CachingAllocator


class Operator(NamedTuple):
    """One operator of the trace."""

    name: str
    flops: int  # multiplications and additions; 0 for what does no matrix arithmetic
    bytes: int  # of its inputs and outputs


class Trace(TorchDispatchMode):
    """Follows each tensor from its creation to its end while it is active.

    Every tensor belongs to the purpose that was set when it was created. Inside of a ``FakeTensorMode``
    nothing is computed and no memory is taken.

    Attributes:
        purpose: Purpose of new tensors.
        peak: Bytes by purpose at the moment with the most.
        operators: Those that compute or copy, in order.
    """

    def __init__(self, purpose: str) -> None:
        super().__init__()
        self.purpose = purpose
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.operators: list[Operator] = []
        self._allocator = CachingAllocator()
        self._tensors: dict[int, tuple[weakref.ref[UntypedStorage], Block, str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and self.note(out):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            count = flop_registry.get(func.overloadpacket)
            flops = count(*args, **(kwargs or {}), out_val=out) if count else 0
            self.operators.append(Operator(func.overloadpacket.__name__, flops, _bytes(tensors)))
        return out

    def note(self, values: Any) -> bool:
        """Note tensors, in any nesting, that exist from now on; True if there is any tensor."""
        tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = id(storage)
            if key not in self._tensors and storage.nbytes():
                block = self._allocator.allocate(storage.nbytes())
                self._tensors[key] = weakref.ref(storage, self._forgetting(key)), block, self.purpose
                self._add(self.purpose, block.size)
        return bool(tensors)

    @property
    def reserved(self) -> int:
        """Bytes that CUDA's allocator would have reserved; it returns none."""
        return self._allocator.reserved

    def move(self, tensors: list[Tensor], purpose: str) -> None:
        """Give tensors that are noted another purpose."""
        for tensor in tensors:
            reference, block, before = self._tensors[id(tensor.untyped_storage())]
            self._tensors[id(tensor.untyped_storage())] = reference, block, purpose
            self.live[before] -= block.size
            self.live[purpose] += block.size

    @contextmanager
    def doing(self, purpose: str) -> Iterator[None]:
        """Set the purpose of new tensors for a while."""
        before, self.purpose = self.purpose, purpose
        yield
        self.purpose = before

    def _forgetting(self, key: int) -> Any:
        def forget(_: Any) -> None:
            _, block, purpose = self._tensors.pop(key)
            self.live[purpose] -= block.size
            self._allocator.free(block)

        return forget

    def _add(self, purpose: str, size: int) -> None:
        self.live[purpose] += size
        if self._allocator.allocated > self.peak.total():
            self.peak = self.live.copy()


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
