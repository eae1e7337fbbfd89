"""Random numbers as a pure function of (seed, epoch, sample index, stream).

There is no generator whose state must be saved: a resumed run draws the same numbers as an uninterrupted
one, for any order of the images, batch size and number of processes.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

VIEW_STREAMS = 18  # numbers for one view (one mosaic or one single image)
BETA_DRAWS = 63  # numbers for one draw from Beta(32, 32)
AREAS = 3  # rectangles that cutmix chooses from


class ViewStream(IntEnum):
    """Use of each number of a view; a mixup's second view has its own ``VIEW_STREAMS``."""

    MAIN = 0  # the own image of a mixup's second view
    PARTNER = 1  # three numbers
    ORDER = 4  # four numbers
    CENTRE = 8  # two numbers: x, y
    PERSPECTIVE = 10  # two numbers: x, y
    ANGLE = 12
    SCALE = 13
    SHEAR = 14  # two numbers: x, y
    TRANSLATE = 16  # two numbers: x, y


class SampleStream(IntEnum):
    """Use of each number of a sample, after those of its two views."""

    MOSAIC = 2 * VIEW_STREAMS
    MIXUP = MOSAIC + 1
    COLOUR = MOSAIC + 2  # three numbers: hue, saturation, value
    FLIP_UP_DOWN = MOSAIC + 5
    FLIP_LEFT_RIGHT = MOSAIC + 6
    BETA = MOSAIC + 7  # BETA_DRAWS numbers
    BGR = BETA + BETA_DRAWS
    CUTMIX = BGR + 1
    CHOICE = BGR + 2  # of a rectangle for cutmix
    AREA = BGR + 3  # three numbers for each of AREAS rectangles: part of the picture, x, y
    END = AREA + 3 * AREAS


def _mix(bits: Tensor) -> Tensor:
    """Scramble 32 bits held in an int64.

    A xorshift-multiply permutation with low bias (C. Wellons, "Prospecting for Hash Functions").
    Its multipliers are below 2^31, so no product leaves int64 and every backend gives the same bits.
    """
    bits = bits ^ (bits >> 16)
    bits = (bits * 0x21F0AAAD) & 0xFFFFFFFF
    bits = bits ^ (bits >> 15)
    bits = (bits * 0x735A2D97) & 0xFFFFFFFF
    return bits ^ (bits >> 15)


def uniforms(seed: Tensor, epoch: Tensor, index: Tensor, draws: int) -> Tensor:
    """Independent uniform numbers for each sample: float32 (B, K) in [0, 1), multiples of 2^-24.

    ``seed`` is int64 () from 0 to 2^63 - 1, ``epoch`` int64 () from 0, ``index`` int64 (B,) the position of
    each sample in its data set, ``draws`` K, the number of streams.
    """
    stream = torch.arange(draws, device=index.device)  # (K,)
    # Two chains of 32 bits: two samples share all their numbers only if both chains collide.
    first, second = torch.full_like(index, 0x243F6A88), torch.full_like(index, 0x13198A2E)  # (B,)
    for word in (seed & 0xFFFFFFFF, seed >> 32, epoch, index & 0xFFFFFFFF):
        first = _mix((first + word) & 0xFFFFFFFF)
        second = _mix((second ^ word) & 0xFFFFFFFF)
    bits = _mix(first[:, None] ^ _mix((second[:, None] + stream) & 0xFFFFFFFF))  # (B, K)
    return (bits >> 8).float() * 2.0**-24


def between(low: float | Tensor, high: float | Tensor, uniform: Tensor) -> Tensor:
    """Map uniform numbers from [0, 1) to [low, high)."""
    return low + (high - low) * uniform


def integers(uniform: Tensor, count: Tensor) -> Tensor:
    """Map uniform numbers to int64 0 .. count - 1; ``count`` is int64 and at most about 2^20."""
    return torch.minimum((uniform * count).long(), count - 1)


def beta_32_32(uniform: Tensor) -> Tensor:
    """Draw from Beta(32, 32) once for each row of uniform numbers (B, 63).

    The k-th smallest of n uniform numbers is Beta(k, n + 1 - k): here the median of 63.
    """
    return uniform.sort(dim=1).values[:, BETA_DRAWS // 2]  # (B,)
