"""Images that look alike, by hashes of their looks that survive another encoding, size or a narrow crop."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.uint64]
IntArray = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]

_SIDE = 32  # px of the grey picture that is hashed
COLOURS = 8  # px a side of the coloured picture that is compared
_BITS = 14  # of 63 bits that may differ; all pairs with up to 7 are found, most of the others
_LEAST_CONTRAST = 2.0  # grey levels, standard deviation: blank pictures have no looks
_LEAST_CORRELATION = 0.94
_LEAST_RATIO = 0.75  # of the contrasts
_MOST_SHIFT = 24.0  # grey levels of brightness
_MOST_SAME = 500  # pictures with one value of a band that each picture is compared with
_TRIMMED = 0.02  # of each side
_CHUNK = 4_000_000  # pairs at a time


class Looks(NamedTuple):
    """The looks of a picture."""

    bits: int  # perceptual hash; 0 for a blank picture
    trimmed: int  # of the picture without a narrow border, as others may have cut it
    colours: Pixels  # (COLOURS, COLOURS, 3)


def describe_looks(image: Pixels) -> Looks:
    """Looks of an image uint8 RGB (H, W, 3): signs of the low frequencies of its grey values, and colours."""
    colours = cv2.resize(image, (COLOURS, COLOURS), interpolation=cv2.INTER_AREA)
    height, width = image.shape[:2]
    y, x = (max(1, round(_TRIMMED * side)) if side > _SIDE else 0 for side in (height, width))
    bits = _hash(image), _hash(image[y : height - y, x : width - x])
    return Looks(*bits, colours.astype(np.uint8, copy=False))


def _hash(image: Pixels) -> int:
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    grey = small @ np.array([0.299, 0.587, 0.114], np.float32)
    if grey.std() < _LEAST_CONTRAST:
        return 0
    waves = (_low_frequencies() @ grey @ _low_frequencies().T).ravel()[1:]
    signs = np.concatenate(([True], waves > np.median(waves)))
    return int.from_bytes(np.packbits(signs).tobytes(), "little")


@cache
def _low_frequencies() -> npt.NDArray[np.float32]:
    """The first rows of the cosine transform, float32 (8, _SIDE)."""
    n = np.arange(_SIDE)
    return np.cos(np.pi * np.outer(np.arange(8), n + 0.5) / _SIDE).astype(np.float32)


def find_look_alikes(bits: Array, trimmed: Array, colours: Pixels) -> npt.NDArray[np.int64]:
    """The first picture that each of N pictures looks like, int64 (N,); -1 if none before it does.

    Args:
        bits: Hashes, uint64 (N,); 0 for pictures that are compared with none.
        trimmed: Likewise, without a border.
        colours: uint8 (N, COLOURS, COLOURS, 3).
    """
    first = np.full(len(bits), len(bits))
    rows = np.flatnonzero(bits)
    for band in range(8):
        own, ours = _band(bits[rows], band), _band(trimmed[rows], band)
        order = rows[np.argsort(own, kind="stable")]
        starts = np.concatenate(([0], np.bincount(own, minlength=1 << 16).cumsum()))
        for hashes, values in ((bits, own), (trimmed, ours)):
            for flipped in (0, *(1 << bit for bit in range(16))):
                wanted = (values ^ np.uint16(flipped)).astype(np.int64)
                begin = starts[wanted]
                counts = np.minimum(starts[wanted + 1] - begin, _MOST_SAME)
                ends = np.cumsum(counts)
                for a, b in pairwise((*np.searchsorted(ends, np.arange(0, counts.sum(), _CHUNK)), len(rows))):
                    n = np.repeat(np.arange(a, b), counts[a:b])
                    places = np.arange(len(n)) + (ends[a - 1] if a else 0) - (ends - counts - begin)[n]
                    _compare(rows[n], order[places], hashes, bits, colours, first)
    return np.where(first < len(bits), first, -1)


def _band(hashes: Array, band: int) -> npt.NDArray[np.uint16]:
    """16 of the 64 bits: a byte and the next."""
    octets = hashes.view(np.uint8).reshape(-1, 8).astype(np.uint16)
    return octets[:, band] | octets[:, (band + 1) % 8] << np.uint16(8)


def _compare(
    n: IntArray, other: IntArray, hashes: Array, bits: Array, colours: Pixels, first: IntArray
) -> None:
    """Note those of the pairs of pictures that look alike in ``first``."""
    close = (n != other) & (_differing_bits(hashes[n] ^ bits[other]) <= _BITS)
    a, b = np.minimum(n, other)[close], np.maximum(n, other)[close]
    same = _look_alike(colours[a], colours[b])
    np.minimum.at(first, b[same], a[same])


def _differing_bits(difference: Array) -> Pixels:
    a, b, c, d = _ones()[difference.view(np.uint16)].reshape(-1, 4).T
    return np.asarray(a + b + c + d)


@cache
def _ones() -> Pixels:
    """Number of bits that are set in each number of 16 bits."""
    return np.array([n.bit_count() for n in range(1 << 16)], np.uint8)


def _look_alike(a: Pixels, b: Pixels) -> npt.NDArray[np.bool_]:
    """True where the colours of pictures (P, ...) are the same but for a little brightness."""
    x, y = (side.reshape(len(side), COLOURS * COLOURS * 3).astype(np.float32) for side in (a, b))
    mean_x, mean_y = x.mean(axis=1), y.mean(axis=1)
    x, y = x - mean_x[:, None], y - mean_y[:, None]
    product, square_x, square_y = (x * y).sum(axis=1), (x * x).sum(axis=1), (y * y).sum(axis=1)
    correlated = product >= _LEAST_CORRELATION * np.sqrt(square_x * square_y)
    as_strong = np.minimum(square_x, square_y) >= _LEAST_RATIO**2 * np.maximum(square_x, square_y)
    return correlated & as_strong & (np.abs(mean_x - mean_y) <= _MOST_SHIFT)
