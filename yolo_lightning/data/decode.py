"""Bytes to letterboxed uint8 pixels, equal to classic YOLOv5's ``load_image`` and ``letterbox``."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from ..boxes import Letterbox, letterbox_geometry
from ..errors import InputError

Pixels = npt.NDArray[np.uint8]

PAD_VALUE = 114
"""The grey of the padding, 0..255."""

_ORIENTATION_TAG = 0x0112
_TRANSPOSED = {5, 6, 7, 8}
"""EXIF orientations that swap height and width."""

_DECODES_TO_RGB = hasattr(cv2, "IMREAD_COLOR_RGB")  # OpenCV 4.11 and newer
_COLOUR: int = cv2.IMREAD_COLOR_RGB if _DECODES_TO_RGB else cv2.IMREAD_COLOR


def header_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width in px of an image as it is displayed, from its header alone.

    Raises:
        InputError: The file is not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if isinstance(image, TiffImageFile):  # newer Pillows have turned these already
                width, height = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
            if image.getexif().get(_ORIENTATION_TAG) in _TRANSPOSED:
                width, height = height, width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image ({error}); replace or remove it") from None
    return height, width


def read_rgb(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> Pixels:
    """Decode a file to uint8 RGB (H, W, 3), turned upright as its EXIF orientation says.

    Grey, transparent and 16-bit images become three channels of 8 bits.

    Args:
        path: The image.
        size: Height and width in px that the annotations give. When they are those of the stored,
            unturned pixels, these are returned.

    Raises:
        InputError: The image cannot be decoded, is truncated, or has another size.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the image cannot be read ({error.strerror}); check the path") from None
    if not _is_complete(data):
        raise InputError(f"{path}: the image is truncated; replace or remove it")
    pixels = _decode(data, _COLOUR, path)
    if size is None or pixels.shape[:2] == tuple(size):
        return pixels
    stored = _decode(data, _COLOUR | cv2.IMREAD_IGNORE_ORIENTATION, path)
    if stored.shape[:2] == tuple(size):
        return stored
    raise InputError(
        f"{path}: the image is {pixels.shape[1]} x {pixels.shape[0]} px but its annotations say "
        f"{size[1]} x {size[0]} px; correct the annotations or replace the image"
    )


def read_image(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> Pixels:
    """The same as ``read_rgb`` in BGR, the order in which OpenCV draws and writes."""
    return cv2.cvtColor(read_rgb(path, size), cv2.COLOR_RGB2BGR).astype(np.uint8, copy=False)


def letterbox(image: Pixels, image_size: int, train: bool) -> Pixels:
    """Resize the longer side to ``image_size`` and pad with grey to a square.

    Args:
        image: uint8 (H, W, 3).
        image_size: S, side of the square in px.
        train: Always interpolate linearly, as training does; otherwise average over areas when the
            image shrinks.

    Returns:
        uint8 (S, S, 3).
    """
    place = letterbox_geometry(image.shape[0], image.shape[1], image_size)
    return paste(resize(image, place, train), place, (image_size, image_size))


def resize(image: Pixels, place: Letterbox, linear: bool) -> Pixels:
    """Scale an image (H, W, 3) to the size that it has in its letterbox.

    Args:
        image: uint8 (H, W, 3).
        place: Where it goes.
        linear: Always interpolate linearly; otherwise average over areas when the image shrinks.
    """
    height, width = image.shape[:2]
    if max(height, width) == max(place.height, place.width):
        return image
    shrinks = max(height, width) > max(place.height, place.width)
    method = cv2.INTER_AREA if shrinks and not linear else cv2.INTER_LINEAR
    return cv2.resize(image, (place.width, place.height), interpolation=method).astype(np.uint8, copy=False)


def paste(content: Pixels, place: Letterbox, canvas: tuple[int, int]) -> Pixels:
    """Put a scaled image onto a grey canvas of (height, width) px."""
    if content.shape[:2] == canvas:
        return content
    pixels = np.full((*canvas, 3), PAD_VALUE, np.uint8)
    pixels[content_slice(place)] = content
    return pixels


def content_slice(place: Letterbox) -> tuple[slice, slice]:
    """Rows and columns of a canvas that the image covers."""
    return slice(place.pad_y, place.pad_y + place.height), slice(place.pad_x, place.pad_x + place.width)


def load_letterboxed(
    path: str | os.PathLike[str], image_size: int, train: bool, size: tuple[int, int] | None = None
) -> tuple[Pixels, tuple[int, int]]:
    """From a file to the letterboxed square.

    Args:
        path: The image.
        image_size: S in px.
        train: Which interpolation, see ``letterbox``.
        size: Height and width in px that the annotations give, to be checked.

    Returns:
        uint8 RGB (S, S, 3), and height and width of the original in px.
    """
    image = read_rgb(path, size)
    return letterbox(image, image_size, train), (image.shape[0], image.shape[1])


def _decode(data: bytes, flags: int, path: str | os.PathLike[str]) -> Pixels:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise InputError(f"{path}: not a readable image; replace or remove it")
    if not _DECODES_TO_RGB:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return pixels.astype(np.uint8, copy=False)


def _is_complete(data: bytes) -> bool:
    """Whether a JPEG or PNG has its end marker; decoders fill what is missing with grey in silence."""
    if data.startswith(b"\x89PNG"):
        return data.rfind(b"IEND") > 0
    if not data.startswith(b"\xff\xd8") or data.endswith(b"\xff\xd9"):
        return True
    # Cameras append data after the end, and thumbnails in the header have ends of their own: look
    # behind the start of the scan. Inside a scan, 0xFF is always followed by 0x00 or a restart mark.
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        if data[position + 1] == 0xDA:
            return data.find(b"\xff\xd9", position) >= 0
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False
