"""CUDA's caching allocator, simulated: memory that a program's tensors reserve on a card that is not here.

The rules are those of torch (c10/cuda/CUDACachingAllocator.cpp): sizes are rounded up to 512 bytes; tensors
up to 1 MiB share segments of 2 MiB; larger ones up to 10 MiB share segments of 20 MiB; others have segments
of their own, rounded up to 2 MiB. The smallest free block that fits is taken and split. A segment is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20
_ROUND = 512
_SMALL = MIB
_SMALL_SEGMENT, _LARGE_SEGMENT, _LEAST_OWN = 2 * MIB, 20 * MIB, 10 * MIB


@dataclass(eq=False)
class Block:
    """A part of a segment."""

    size: int  # bytes
    is_small: bool
    is_free: bool = True
    before: Block | None = None  # its neighbours in the segment
    after: Block | None = None


class CachingAllocator:
    """Bytes that tensors take, and that the allocator reserves for them."""

    def __init__(self) -> None:
        self.allocated = 0
        self.reserved = 0
        self._free: dict[bool, set[Block]] = {True: set(), False: set()}

    def allocate(self, size: int) -> Block:
        """Take a block of at least ``size`` bytes, at least 1."""
        size = -(-size // _ROUND) * _ROUND
        is_small = size <= _SMALL
        fitting = [block for block in self._free[is_small] if block.size >= size]
        block = min(fitting, key=lambda block: block.size) if fitting else self._reserve(size, is_small)
        self._free[is_small].discard(block)
        rest = block.size - size
        if rest >= _ROUND if is_small else rest > _SMALL:
            tail = Block(rest, is_small, before=block, after=block.after)
            if block.after:
                block.after.before = tail
            block.size, block.after = size, tail
            self._free[is_small].add(tail)
        block.is_free = False
        self.allocated += block.size
        return block

    def _reserve(self, size: int, is_small: bool) -> Block:
        large = _LARGE_SEGMENT if size < _LEAST_OWN else -(-size // _SMALL_SEGMENT) * _SMALL_SEGMENT
        block = Block(_SMALL_SEGMENT if is_small else large, is_small)
        self.reserved += block.size
        return block

    def free(self, block: Block) -> None:
        """Give a block back, and join it with free neighbours."""
        self.allocated -= block.size
        block.is_free = True
        pool = self._free[block.is_small]
        if block.before and block.before.is_free:
            pool.discard(block.before)
            block = _join(block.before, block)
        if block.after and block.after.is_free:
            pool.discard(block.after)
            block = _join(block, block.after)
        pool.add(block)


def _join(first: Block, second: Block) -> Block:
    first.size += second.size
    first.after = second.after
    if first.after:
        first.after.before = first
    return first
