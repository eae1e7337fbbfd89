"""Photographs of a wanted size on disk, made from the two that ship with ultralytics."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

_QUALITIES = (30, 100)
"""Lowest and highest JPEG quality that is tried."""


@cache
def photographs() -> tuple[Pixels, ...]:
    """The photographs that everything is made from, each uint8 (H, W, 3) BGR."""
    package = importlib.util.find_spec("ultralytics")  # found, not imported: that would write settings
    assert package is not None and package.origin is not None
    paths = sorted((Path(package.origin).parent / "assets").glob("*.jpg"))
    images = [cv2.imread(str(path)) for path in paths]
    return tuple(np.asarray(image, np.uint8) for image in images if image is not None)


def make_picture(height: int, width: int, generator: np.random.Generator, grain: float) -> Pixels:
    """A new picture: two random crops, flipped and mixed, with the grain of a sensor.

    Args:
        height: In px.
        width: In px.
        generator: Of everything random.
        grain: Standard deviation of the noise, in grey levels of 255.

    Returns:
        uint8 (height, width, 3) BGR.
    """
    first, second = (_crop(height, width, generator) for _ in range(2))
    mixed = cv2.addWeighted(first, 0.75, second, 0.25, 0)
    noise = generator.standard_normal(mixed.shape, np.float32) * np.float32(grain)
    return (mixed + noise).clip(0, 255).astype(np.uint8)


def _crop(height: int, width: int, generator: np.random.Generator) -> Pixels:
    """A random part of a random photograph, in the shape of the picture."""
    photo = photographs()[int(generator.integers(len(photographs())))]
    full_height, full_width = photo.shape[:2]
    share = generator.uniform(0.5, 0.95)
    scale = share * min(full_height / height, full_width / width)
    part = max(1, int(height * scale)), max(1, int(width * scale))
    top = int(generator.integers(full_height - part[0] + 1))
    left = int(generator.integers(full_width - part[1] + 1))
    crop = photo[top : top + part[0], left : left + part[1]]
    if generator.random() < 0.5:
        crop = crop[:, ::-1]
    return np.asarray(cv2.resize(crop, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def encode_jpeg(picture: Pixels, target_bytes: int) -> bytes:
    """A JPEG of the quality (30 to 100) at which its size is nearest to ``target_bytes``."""
    low, high = _QUALITIES
    below, above = _encode(picture, low), _encode(picture, high)
    while high - low > 1:
        middle = (low + high) // 2
        encoded = _encode(picture, middle)
        if len(encoded) <= target_bytes:
            low, below = middle, encoded
        else:
            high, above = middle, encoded
    return min(below, above, key=lambda encoded: abs(len(encoded) - target_bytes))


def _encode(picture: Pixels, quality: int) -> bytes:
    _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()
