from __future__ import annotations

import cv2
import numpy as np
import pytest

from yolo_lightning.monitoring.pictures.draw_boxes import class_colour, draw_boxes, encode, ink_on, legible

RED, GREEN = (255, 0, 0), (0, 255, 0)


def blank(height: int = 60, width: int = 80) -> np.ndarray:
    return np.full((height, width, 3), 200, np.uint8)


def coloured(image: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """First and last column and row that have a pixel of the colour: x1, y1, x2, y2."""
    rows, columns = np.nonzero((image == colour).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def test_a_box_is_where_it_should_be_and_the_image_is_left_alone() -> None:
    image = blank()
    drawn = draw_boxes(image, np.array([[10, 20, 40, 50]], np.float32), [""], [RED], line_px=1)
    assert coloured(drawn, RED) == (10, 20, 40, 50)
    assert (drawn[21:50, 11:40] == 200).all()
    assert (image == 200).all()


def test_the_last_box_is_on_top() -> None:
    boxes = np.array([[10, 20, 40, 50]] * 2, np.float32)
    drawn = draw_boxes(blank(), boxes, ["", ""], [RED, GREEN], line_px=1)
    assert not (drawn == RED).all(axis=2).any()


@pytest.mark.parametrize(
    "box",
    [
        [np.nan, 0, 10, 10],
        [0, 0, np.inf, 10],
        [-30, 5, -10, 20],
        [90, 5, 120, 20],
        [5, -9, 20, -1],
        [5, 60, 20, 70],
    ],
)
def test_what_is_not_in_the_image_is_not_drawn(box: list[float]) -> None:
    drawn = draw_boxes(blank(), np.array([box], np.float32), ["outside"], [RED])
    assert (drawn == 200).all()


def test_boxes_that_reach_out_or_are_inside_out_are_drawn() -> None:
    reaching = draw_boxes(blank(), np.array([[-1e30, 20, 40, 1e30]], np.float32), [""], [RED], line_px=1)
    assert coloured(reaching, RED) == (0, 20, 40, 59)
    inverted = draw_boxes(blank(), np.array([[40, 50, 10, 20]], np.float32), [""], [RED], line_px=1)
    assert coloured(inverted, RED) == (10, 20, 40, 50)


@pytest.mark.parametrize("corner", [(30, 30), (0, 0), (70, 0), (70, 55), (-20, -20)])
def test_the_whole_caption_is_in_the_image(corner: tuple[int, int]) -> None:
    box = np.array([[*corner, corner[0] + 30, corner[1] + 30]], np.float32)
    plain, captioned = (draw_boxes(blank(), box, [text], [RED]) for text in ("", "cell"))
    ground = (captioned == RED).all(axis=2) & ~(plain == RED).all(axis=2)
    ink = ((captioned != RED) & (captioned != 200)).any(axis=2) & (captioned[..., 0] == 255)
    assert ink_on(RED) == (255, 255, 255)
    assert ground.sum() > 150
    assert ink.sum() > 40


def test_many_captions_are_left_out() -> None:
    boxes = np.array([[5, 30, 75, 55]] * 61, np.float32)
    few = draw_boxes(blank(), boxes[:60], ["cell"] * 60, [RED] * 60)
    many = draw_boxes(blank(), boxes, ["cell"] * 61, [RED] * 61)
    assert (few == RED).all(axis=2).sum() > (many == RED).all(axis=2).sum()


def test_no_box_at_all() -> None:
    assert (draw_boxes(blank(), np.zeros((0, 4), np.float32), [], []) == 200).all()


def test_names_that_the_font_cannot_write_become_numbers() -> None:
    names = ["Blutplättchen", "эритроцит", "红细胞", "λ"]
    assert legible(names) == ["Blutplättchen", "эритроцит", "class 2", "λ"]


def test_colours_of_classes_differ() -> None:
    colours = np.array([class_colour(label) for label in range(80)], int)
    assert len(np.unique(colours, axis=0)) == 80
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 100


def test_files_hold_the_picture() -> None:
    x, y = np.meshgrid(np.arange(64), np.arange(48))
    image = np.stack((4 * x, 5 * y, np.full_like(x, 90)), axis=2).astype(np.uint8)
    png, jpeg = (
        cv2.imdecode(np.frombuffer(encode(image, suffix), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        for suffix in (".png", ".jpg")
    )
    assert (png == image).all()
    assert np.abs(jpeg.astype(int) - image).mean() < 3
