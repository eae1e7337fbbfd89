"""Image files decoded to letterboxed uint8 pixels, equal to those of classic YOLOv5."""

from __future__ import annotations

import errno
import os
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from ...errors import InputError
from ..image_size import Size
from ..letterbox import PAD_VALUE, Letterbox, letterbox_geometry
from .truncation import END, JPEG, has_all_pixels, has_end

Pixels = npt.NDArray[np.uint8]
Name = str | os.PathLike[str]

MAX_MEGAPIXELS = 256
"""Largest image that is decoded by default: 16,000 px a side, which take 0.8 GB."""
_MOST_BYTES = 2**31
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "HEIF", "AVIF")
"""Pillow knows many more, and some do much work to open a file."""
_DECODED_BY_PILLOW = ("GIF", "HEIF", "AVIF")
"""The others are decoded by OpenCV, as in classic YOLOv5."""
_HEIC = (b"ftyphei", b"ftyphev", b"ftypmif", b"ftypmsf")
_AVIF = b"ftypavi"

_ORIENTATION_TAG = 0x0112
_TRANSPOSED = {5, 6, 7, 8}
"""EXIF orientations that swap height and width."""
_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
"""OpenCV's code of the flip that follows, for each EXIF orientation."""
_FILL = [128, 128, 128]
"""Grey that a decoder puts where a JPEG has no pixels."""

_DECODES_TO_RGB = hasattr(cv2, "IMREAD_COLOR_RGB")  # OpenCV 4.11 and newer
_COLOUR: int = cv2.IMREAD_COLOR_RGB if _DECODES_TO_RGB else cv2.IMREAD_COLOR
_REDUCTIONS = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
}
"""OpenCV's flag for each divisor; the grey ones, as their other bits are combined with ``_COLOUR``."""

# InputError names the file, which OpenCV's own lines on the screen do not.
(cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)  # OpenCV 4, and 5


class _Header(NamedTuple):
    """What the header of an image says."""

    displayed: Size
    stored: Size  # before it is turned by its EXIF orientation
    orientation: int  # EXIF orientation, 1 to 8
    kind: str  # Pillow's name of the format


def header_size(path: Name) -> Size:
    """Height and width in px of an image as displayed, read from its header alone.

    Raises:
        InputError: The file is not an image.
    """
    return _header(path, path).displayed


def refuse_large(path: Name, size: Size, max_megapixels: int = MAX_MEGAPIXELS) -> None:
    """Refuse an image for the size in its header or annotations, before its pixels take memory.

    Raises:
        InputError: It has more than ``max_megapixels``.
    """
    if size[0] * size[1] > max_megapixels * 1e6:
        raise InputError(
            f"{path}: the image is {size[1]} x {size[0]} px, more than data.max_megapixels {max_megapixels}; "
            "shrink or remove it, or set a larger --data.max_megapixels if you trust it"
        )


def _open(file: IO[bytes]) -> ImageFile:
    """Open an image as ``Image.open`` does, without its limit, which is lower than ours."""
    Image.init()
    start = file.read(16)
    if start[4:].startswith(_HEIC):
        import_module("pillow_heif").register_heif_opener()
    for factory, accept in (Image.OPEN[name] for name in _FORMATS if name in Image.OPEN):
        if accept is None or accept(start) is True:
            file.seek(0)
            return factory(file, "")
    raise ImportError if start[4:].startswith(_AVIF) else ValueError("unknown format")


def refuse_other_size(path: Name, size: Size) -> None:
    """Refuse an image whose header has another size than :func:`read_rgb` would take.

    Raises:
        InputError: The file is not an image, or has another height and width in px.
    """
    header = _header(path, path)
    if size not in (header.displayed, header.stored):
        raise _wrong_size(path, header.displayed, size)


def _header(file: Name | BytesIO, name: Name) -> _Header:
    try:
        with file if isinstance(file, BytesIO) else open(file, "rb") as opened, _open(opened) as image:
            width, height = image.size
            if isinstance(image, TiffImageFile):  # newer Pillow versions have turned these already
                width, height = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
            # Of PNG files, PngImageFile.getexif() decodes the pixels, to find what stands after them.
            orientation = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
            if not (0 < width < 2**31 and 0 < height < 2**31):
                raise ValueError("no size")
            kind, mode = str(image.format), image.mode
    except ImportError:
        sentence = "HEIC and AVIF need more packages; pip install 'yolo-lightning[heic]'"
        raise InputError(f"{name}: {sentence}") from None
    except Exception:  # a damaged header raises errors of nearly every kind
        raise InputError(f"{name}: not a readable image; replace or remove it") from None
    if mode == "F" or (mode, kind) == ("I", "TIFF"):
        raise InputError(f"{name}: pixels of 32 bits have no fixed white; convert it to 8 or 16 bits")
    displayed = (width, height) if orientation in _TRANSPOSED else (height, width)
    if kind == "TIFF":  # OpenCV always turns these
        return _Header(displayed, displayed, 1, kind)
    return _Header(displayed, (height, width), orientation, kind)


def read_bytes(path: Name) -> bytes:
    """The content of an image file.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        if os.stat(path).st_size > _MOST_BYTES:  # a file with a hole takes no room on the disk
            raise OSError(errno.EFBIG, "it has more than 2 GiB")
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the image cannot be read ({error.strerror}); check the path") from None


def read_rgb(path: Name, size: Size | None = None) -> Pixels:
    """Decode a file to uint8 RGB (H, W, 3), turned upright by its EXIF orientation.

    Grey, transparent and 16-bit images become three channels of 8 bits: alpha is ignored, and the upper byte
    is taken. Of several pictures, the first is. If ``size``, the annotated height
    and width in px, matches the stored, unturned pixels instead of the upright ones, those are returned.

    Raises:
        InputError: The image cannot be decoded, is truncated, or has another size.
    """
    return decode_rgb(read_bytes(path), path, size)


def decode_rgb(data: bytes, path: Name, size: Size | None = None, divisor: int = 1) -> Pixels:
    """Decode bytes as :func:`read_rgb` does a file; a JPEG at 1/divisor of its size."""
    data = _whole(data, path)
    header = _header(BytesIO(data), path)
    if size is None:
        size = header.displayed
        refuse_large(path, size)
    size = (int(size[0]), int(size[1]))
    if size not in (header.displayed, header.stored):  # it may be huge, whatever the annotations say
        raise _wrong_size(path, header.displayed, size)
    turns = header.orientation != 1 and size == header.displayed
    if turns and (size[0] % divisor or size[1] % divisor):
        divisor = 1  # turning may move the partial row or column to the front
    pixels = _decode(data, header.kind, divisor, path)
    if turns:
        pixels = _turn(pixels, header.orientation)
    if divisor == 1 and pixels.shape[:2] != size:
        raise _wrong_size(path, pixels.shape[:2], size)
    return pixels


def _turn(pixels: Pixels, orientation: int) -> Pixels:
    turned = cv2.transpose(pixels) if orientation in _TRANSPOSED else pixels
    turned = cv2.flip(turned, _FLIPS[orientation]) if orientation in _FLIPS else turned
    return turned.astype(np.uint8, copy=False)


def decode_scaled(data: bytes, path: Name, size: Size, image_size: Size) -> Pixels:
    """Decode for training: a JPEG at 1/8, 1/4 or 1/2 of its size, if ``image_size`` px remain of one side.

    The decoder then computes only the frequencies of the smaller picture, in at most half the time and
    without the moiré of skipping pixels. ``size`` is as in :func:`read_rgb`.

    Returns:
        uint8 RGB (h, w, 3), sides rounded up; at full size if the image is displayed turned and its sides
        are no multiples of the divisor.

    Raises:
        InputError: As :func:`read_rgb`.
    """
    # The largest divisor that leaves enough px.
    scale = max(side / wanted for side, wanted in zip(size, image_size, strict=True))
    divisor = next((divisor for divisor in _REDUCTIONS if scale >= divisor), 1)
    return decode_rgb(data, path, size, divisor if data.startswith(JPEG) else 1)


def _whole(data: bytes, path: Name) -> bytes:
    """The file, with its end marker if a JPEG lacks nothing else."""
    if has_end(data):
        return data
    if data.startswith(JPEG) and has_all_pixels(data):
        return data.rstrip(b"\xff") + END
    raise _truncated(path)


def _truncated(path: Name) -> InputError:
    return InputError(f"{path}: the image is truncated; replace or remove it")


def _wrong_size(path: Name, found: Size, annotated: Size) -> InputError:
    return InputError(
        f"{path}: the image is {found[1]} x {found[0]} px but its annotations say "
        f"{annotated[1]} x {annotated[0]} px; correct the annotations or replace the image"
    )


def resize(image: Pixels, place: Letterbox, linear: bool) -> Pixels:
    """Scale an image uint8 (H, W, 3) to its size in a letterbox.

    ``linear`` always interpolates linearly; otherwise areas are averaged if the image shrinks.
    """
    height, width = image.shape[:2]
    if (height, width) == (place.height, place.width):
        return image
    shrinks = max(height, width) > max(place.height, place.width)
    method = cv2.INTER_AREA if shrinks and not linear else cv2.INTER_LINEAR
    return cv2.resize(image, (place.width, place.height), interpolation=method).astype(np.uint8, copy=False)


def paste(content: Pixels, place: Letterbox, canvas: Pixels) -> None:
    """Put a scaled image onto a canvas uint8 (H, W, 3), with grey padding around it."""
    rows, columns = content_slice(place)
    canvas[: rows.start] = canvas[rows.stop :] = PAD_VALUE
    canvas[rows, : columns.start] = canvas[rows, columns.stop :] = PAD_VALUE
    canvas[rows, columns] = content


def content_slice(place: Letterbox) -> tuple[slice, slice]:
    """Rows and columns of the canvas under the image."""
    return slice(place.pad_y, place.pad_y + place.height), slice(place.pad_x, place.pad_x + place.width)


def draw(data: bytes, path: Name, size: Size, image_size: Size, train: bool, canvas: Pixels) -> None:
    """Decode a file, scale it into ``image_size`` px and centre it on a canvas.

    Args:
        data: Content of the file ``path``.
        size: Annotated height and width in px, checked.
        train: Decode at reduced size and interpolate linearly, see ``decode_scaled`` and ``resize``.
        canvas: uint8 RGB (H, W, 3), to be filled.

    Raises:
        InputError: As :func:`read_rgb`.
    """
    place = letterbox_geometry(*size, image_size, canvas.shape[:2])
    if train:
        image = decode_scaled(data, path, size, image_size)
        divisor = round(max(size) / max(image.shape[:2]))
        paste(_resize_reduced(image, place, size, divisor), place, canvas)
    else:
        paste(resize(decode_rgb(data, path, size), place, linear=False), place, canvas)


def _resize_reduced(image: Pixels, place: Letterbox, size: Size, divisor: int) -> Pixels:
    """Scale an image that was decoded at 1/divisor of ``size`` to its letterbox, linearly.

    If a side is no multiple of the divisor, the last row or column reaches beyond the picture. Squeezing it
    in would shift the picture under its labels.
    """
    if not (size[0] % divisor or size[1] % divisor):
        return resize(image, place, linear=True)
    step_y, step_x = size[0] / divisor / place.height, size[1] / divisor / place.width
    to_source = np.array([[step_x, 0, step_x / 2 - 0.5], [0, step_y, step_y / 2 - 0.5]])
    scaled = cv2.warpAffine(
        image,
        to_source,
        (place.width, place.height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return scaled.astype(np.uint8, copy=False)


def _decode(data: bytes, kind: str, divisor: int, path: Name) -> Pixels:
    """Pixels as they are stored, unturned."""
    try:
        if kind in _DECODED_BY_PILLOW:
            with _open(BytesIO(data)) as image:
                return np.array(image.convert("RGB"))
        flags = _COLOUR | _REDUCTIONS.get(divisor, 0) | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except Exception:  # damage in an image raises errors of nearly every kind
        pixels = None
    if pixels is None:
        raise InputError(f"{path}: not a readable image; replace or remove it")
    if not _DECODES_TO_RGB:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    # The end marker may have been put behind a part of the file. Grey borders are common: one tail must do.
    if data.startswith(JPEG) and pixels[-1, -1].tolist() == _FILL and not has_all_pixels(data, tails=1):
        raise _truncated(path)
    return pixels.astype(np.uint8, copy=False)
