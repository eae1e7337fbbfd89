from __future__ import annotations

import cv2
import numpy as np

from yolo_lightning.monitoring.pictures.draw_boxes import font
from yolo_lightning.monitoring.pictures.grid import Tile, encode, shortened, tile_grid

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def tile(colour: tuple[int, int, int], height: int, width: int, caption: str = "") -> Tile:
    return Tile(np.full((height, width, 3), colour, np.uint8), caption)


def places(grid: np.ndarray) -> list[tuple[int, int, int]]:
    """Left, top and number of pixels of each of the colours."""
    found = []
    for colour in COLOURS:
        rows, columns = np.nonzero((grid == colour).all(axis=2))
        found.append((int(columns.min()), int(rows.min()), len(rows)))
    return found


def test_tiles_lie_in_rows_and_none_covers_another() -> None:
    shapes = [(30, 50), (20, 60), (40, 10)]
    grid = tile_grid([tile(c, *shape, "two\nlines") for c, shape in zip(COLOURS, shapes, strict=True)], 2, [])
    (left1, top1, n1), (left2, top2, n2), (left3, top3, n3) = places(grid)
    assert (n1, n2, n3) == (30 * 50, 20 * 60, 40 * 10)
    assert left1 == left3 < left2 - 60
    assert top1 == top2 < top3 - 30


def test_captions_and_the_title_can_be_read() -> None:
    plain = tile_grid([tile(COLOURS[0], 20, 200)], 1, [])
    told = tile_grid([tile(COLOURS[0], 20, 200, "what it is")], 1, [("title ", None), ("red", COLOURS[1])])
    assert plain.shape == told.shape
    top = places_of(told, COLOURS[0])
    assert (plain[:top] == 255).all()
    assert (told[:top] < 100).all(axis=2).sum() > 50
    assert (told[:top] == COLOURS[1]).all(axis=2).sum() > 5


def places_of(grid: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int(np.nonzero((grid == colour).all(axis=2))[0].min())


def test_long_texts_lose_their_middle() -> None:
    face = font(13)
    text = "a_very_long_name_of_a_file_0001.jpg"
    short = shortened(text, face, 120)
    assert face.getlength(short) <= 120 < face.getlength(text)
    head, tail = short.split("…")
    assert text.startswith(head) and text.endswith(tail) and len(head) > 3 and len(tail) > 3
    assert shortened(text, face, 1000) == text
    assert shortened(text, face, 1) == ""


def test_files_hold_the_picture() -> None:
    x, y = np.meshgrid(np.arange(64), np.arange(48))
    image = np.stack((4 * x, 5 * y, np.full_like(x, 90)), axis=2).astype(np.uint8)
    png, jpeg = (
        cv2.imdecode(np.frombuffer(encode(image, suffix), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        for suffix in (".png", ".jpg")
    )
    assert (png == image).all()
    assert np.abs(jpeg.astype(int) - image).mean() < 3
