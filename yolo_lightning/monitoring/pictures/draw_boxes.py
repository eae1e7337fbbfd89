"""Boxes with captions on an image, in a font that has more letters than ASCII."""

from __future__ import annotations

import colorsys
import functools
import io
import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]
"""uint8 (H, W, 3), RGB."""
Floats = npt.NDArray[np.float32]
Colour = tuple[int, int, int]
"""Red, green, blue, 0..255."""

_MOST_CAPTIONS = 60
"""The captions of more boxes would cover the image."""


def class_colour(label: int) -> Colour:
    """RGB of a class, always the same; neighbours differ by the golden angle in hue."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1.0, 0.85, (1.0, 0.8)[label // 12 % 2])
    return round(255 * red), round(255 * green), round(255 * blue)


def ink_on(ground: Colour) -> Colour:
    """Black or white, the one with more contrast to a colour."""
    red, green, blue = ground
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    return (0, 0, 0) if luminance > 127 else (255, 255, 255)


def _font_path() -> str:
    import matplotlib  # here, since it takes a quarter of a second

    return os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@functools.cache
def font(height_px: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with Matplotlib: Latin, Greek, Cyrillic, Arabic, and many signs."""
    return ImageFont.truetype(_font_path(), height_px)


@functools.cache
def _letters() -> frozenset[int]:
    """Code points in the font."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(_font_path()).get_charmap())


def legible(names: Sequence[str]) -> list[str]:
    """Names of classes 0 .. C-1; ``class N`` replaces a name with letters that the font lacks."""
    return [
        name if all(ord(letter) in _letters() for letter in name) else f"class {label}"
        for label, name in enumerate(names)
    ]


def draw_boxes(
    image: Pixels,
    boxes: Floats,
    captions: Sequence[str],
    colours: Sequence[Colour],
    line_px: int = 2,
    font_px: int = 12,
) -> Pixels:
    """A copy of an image with boxes, the last on top; captions lie above all boxes.

    Boxes that are not finite or lie outside the image are skipped. More than 60 boxes have no captions.

    Args:
        image: RGB (H, W, 3).
        boxes: (n, 4) xyxy in px of the image, of any extent.
        captions: n texts; an empty one is not drawn.
        colours: n colours.
        line_px: width of the lines in px.
        font_px: height of the letters in px.
    """
    canvas = Image.fromarray(image).copy()
    draw = ImageDraw.Draw(canvas)
    height, width = image.shape[:2]
    with np.errstate(invalid="ignore"):
        low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
        visible = np.isfinite(boxes).all(1) & (high > 0).all(1) & (low < (width, height)).all(1)
    reach = 4 * max(height, width)  # PIL would walk all the way along a line that leads far outside
    bounded = np.nan_to_num(np.concatenate((low, high), axis=1)).clip(-reach, reach)
    corners = bounded.round().astype(int).tolist()
    rows = np.flatnonzero(visible).tolist()
    for row in rows:
        draw.rectangle(corners[row], outline=colours[row], width=line_px)
    face = font(font_px)
    text_height = sum(face.getmetrics())
    for row in rows if len(rows) <= _MOST_CAPTIONS else ():
        if captions[row]:  # on a filled ground above the top left corner, moved to lie inside the image
            text_width = round(face.getlength(captions[row])) + 4
            left, top, *_ = corners[row]
            left = max(0, min(left, width - text_width))
            top = top - text_height if top >= text_height else max(0, min(top, height - text_height))
            ground = (left, top, left + text_width - 1, top + text_height - 1)
            draw.rectangle(ground, fill=colours[row])
            draw.text((left + 2, top), captions[row], fill=ink_on(colours[row]), font=face)
    return np.asarray(canvas)


def encode(image: Pixels, suffix: str) -> bytes:
    """The contents of an image file, ``.jpg`` or ``.png``."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG" if suffix == ".jpg" else "PNG", quality=82)  # PNG ignores it
    return file.getvalue()
