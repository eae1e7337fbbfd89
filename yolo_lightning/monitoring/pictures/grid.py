"""Many images as one: tiles with captions on a white ground."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .draw_boxes import Colour, Pixels, font

_GAP_PX = 8
_CAPTION_FONT_PX = 13
_TITLE_FONT_PX = 16
_INK: Colour = (40, 40, 40)
_GROUND: Colour = (255, 255, 255)


class Tile(NamedTuple):
    """One image of a grid."""

    image: Pixels
    """RGB (h, w, 3)."""
    caption: str
    """Lines above the image; long lines are shortened."""
    colour: Colour = _INK
    """Colour of the caption."""


def tile_grid(tiles: Sequence[Tile], columns: int, title: Sequence[tuple[str, Colour | None]]) -> Pixels:
    """Tiles row by row under a title; each row is as high as its highest tile.

    Args:
        tiles: one or more.
        columns: tiles in a row.
        title: words and their colours; None is the colour of plain text.
    """
    face, title_face = font(_CAPTION_FONT_PX), font(_TITLE_FONT_PX)
    line, title_height = sum(face.getmetrics()), sum(title_face.getmetrics()) + _GAP_PX
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    cell = max(tile.image.shape[1] for tile in tiles)
    captions = [line * max(tile.caption.count("\n") + 1 for tile in row) for row in rows]
    images = [max(tile.image.shape[0] for tile in row) for row in rows]
    width = _GAP_PX + (cell + _GAP_PX) * min(columns, len(tiles))
    height = _GAP_PX + title_height + sum(captions) + sum(images) + _GAP_PX * len(rows)
    canvas = Image.new("RGB", (width, height), _GROUND)
    draw = ImageDraw.Draw(canvas)
    left = float(_GAP_PX)
    for text, colour in title:
        text = shortened(text, title_face, width - _GAP_PX - left)
        draw.text((left, _GAP_PX), text, fill=colour or _INK, font=title_face)
        left += title_face.getlength(text)
    top = _GAP_PX + title_height
    for row, caption_height, image_height in zip(rows, captions, images, strict=True):
        for column, tile in enumerate(row):
            x = _GAP_PX + column * (cell + _GAP_PX)
            for number, text in enumerate(tile.caption.split("\n")):
                place = (x, top + number * line)
                draw.text(place, shortened(text, face, cell), fill=tile.colour, font=face)
            canvas.paste(Image.fromarray(tile.image), (x, top + caption_height))
        top += caption_height + image_height + _GAP_PX
    return np.asarray(canvas)


def shortened(text: str, face: ImageFont.FreeTypeFont, width_px: float) -> str:
    """The text without letters of its middle, so that it is at most ``width_px`` wide."""
    if face.getlength(text) <= width_px:
        return text
    for kept in range(len(text) - 1, 0, -1):
        head = (kept + 1) // 2
        shorter = f"{text[:head]}…{text[len(text) - (kept - head) :]}"
        if face.getlength(shorter) <= width_px:
            return shorter
    return ""


def encode(image: Pixels, suffix: Literal[".jpg", ".png"]) -> bytes:
    """The contents of an image file."""
    file = io.BytesIO()
    if suffix == ".jpg":
        Image.fromarray(image).save(file, "JPEG", quality=82)
    else:
        Image.fromarray(image).save(file, "PNG")
    return file.getvalue()
