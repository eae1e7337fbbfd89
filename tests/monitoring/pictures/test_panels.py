from __future__ import annotations

import numpy as np
import pytest
import torch

from yolo_lightning.monitoring.pictures import panels
from yolo_lightning.monitoring.pictures.draw_boxes import class_colour, font
from yolo_lightning.monitoring.pictures.panels import (
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    Tile,
    describe_mistake,
    draw_augmented,
    draw_predictions,
    draw_worst,
    shortened,
    tile_grid,
)
from yolo_lightning.monitoring.pictures.views import (
    VIEW_PX,
    EvaluatedImage,
    ImageView,
    Mistake,
    cut_mistake,
    find_mistakes,
)

NAMES = ["cell", "Blutplättchen", "红细胞"]
VIEW = ImageView(np.full((60, 80, 3), 128, np.uint8), np.array([1, 1, 0, 0], np.float32))
OBJECT = [0.0, 10, 10, 50, 50, 1600, 0]


def mistake(detections: list[list[float]], truth: list[list[float]], is_missed: bool) -> Mistake:
    found, table = np.array(detections, np.float32).reshape(-1, 6), np.array(truth, np.float32).reshape(-1, 7)
    wrong, missed = find_mistakes(found, table)
    return cut_mistake(evaluated(found, table), (missed if is_missed else wrong)[0], is_missed)


def evaluated(detections: np.ndarray, truth: np.ndarray) -> EvaluatedImage:
    return EvaluatedImage(
        pixels=torch.full((3, 60, 80), 128, dtype=torch.uint8),
        letterbox=VIEW.letterbox,
        size=(60, 80),
        position=0,
        image_id=1,
        detections=detections,
        truth=truth,
    )


@pytest.mark.parametrize(
    ("detections", "truth", "is_missed", "expected"),
    [
        ([[10, 10, 50, 50, 0.8, 1]], [], False, "Blutplättchen 0.80: nothing annotated there"),
        ([[49, 49, 90, 90, 0.8, 0]], [OBJECT], False, "cell 0.80: nothing annotated there"),
        ([[10, 10, 50, 50, 0.8, 1]], [OBJECT], False, "Blutplättchen 0.80: annotated as cell"),
        ([[10, 10, 50, 26, 0.8, 0]], [OBJECT], False, "cell 0.80: IoU 0.40 with cell"),
        (
            [[10, 10, 50, 50, 0.9, 0], [10, 10, 50, 45, 0.8, 0]],
            [OBJECT],
            False,
            "cell 0.80: found twice",
        ),
        ([], [OBJECT], True, "missed cell, 40 × 40 px: nothing found there"),
        ([[60, 60, 90, 90, 0.8, 0]], [OBJECT], True, "missed cell, 40 × 40 px: nothing found there"),
        (
            [[10, 10, 50, 50, 0.8, 1]],
            [OBJECT],
            True,
            "missed cell, 40 × 40 px: taken for Blutplättchen 0.80",
        ),
        (
            [[10, 10, 50, 26, 0.8, 1]],
            [OBJECT],
            True,
            "missed cell, 40 × 40 px: IoU 0.40 with Blutplättchen 0.80",
        ),
    ],
)
def test_mistakes_in_words(
    detections: list[list[float]], truth: list[list[float]], is_missed: bool, expected: str
) -> None:
    assert describe_mistake(mistake(detections, truth, is_missed), NAMES) == expected


def has(image: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((image == colour).all(axis=2).any())


def test_what_the_network_sees() -> None:
    images = np.full((2, 64, 64, 3), 128, np.uint8)
    labels = np.array([[0, 1, 10, 20, 40, 50], [0, 2, 5, 5, 60, 60], [7, 2, 5, 5, 60, 60]], np.float32)
    one, other = (draw_augmented(images, labels[rows], NAMES) for rows in ([0, 2], [0, 1, 2]))
    assert one.shape[1] > 2 * VIEW_PX and one.shape[0] < 2 * VIEW_PX
    assert has(one, class_colour(1)) and not has(one, class_colour(2))
    assert has(other, class_colour(2))
    _, columns = np.nonzero((one == class_colour(1)).all(axis=2))
    assert columns.max() < VIEW_PX  # nothing in the second tile
    assert np.ptp(columns) == pytest.approx(30 / 64 * VIEW_PX, abs=3)


def test_predictions_are_right_of_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    captions: list[str] = []
    real = panels.Tile
    monkeypatch.setattr(
        panels, "Tile", lambda image, caption: captions.append(caption) or real(image, caption)
    )
    detections = np.array([[10, 10, 50, 50, 0.8, 1], [60, 5, 78, 20, 0.4, 2]], np.float32)
    truth = np.array([OBJECT, [2, 60, 5, 78, 20, 270, 0]], np.float32)
    images = evaluated(detections, truth), evaluated(detections[:0], truth[:0])
    panel = draw_predictions([(image, VIEW) for image in images], ["a.jpg", "b.jpg"], NAMES)
    halves = panel[:, : VIEW_PX + 8], panel[:, VIEW_PX + 8 :]
    assert [has(half, class_colour(0)) for half in halves] == [True, False]
    assert [has(half, class_colour(1)) for half in halves] == [False, True]
    assert [has(half, class_colour(2)) for half in halves] == [True, True]
    assert captions == [
        "a.jpg\n2 annotated; 2 found, 1 of them wrong; 1 missed",
        "b.jpg\n0 annotated; 0 found, 0 of them wrong; 0 missed",
    ]


def test_mistakes_are_drawn_in_two_colours() -> None:
    wrong = mistake([[10, 10, 50, 50, 0.8, 2]], [], False)
    missed = mistake([], [OBJECT], True)
    panel = draw_worst([wrong, missed], ["a.jpg", "b.jpg"], NAMES)
    body = panel[80:]  # below title and captions
    middle = body.shape[1] // 2
    assert [has(half, PREDICTION_COLOUR) for half in (body[:, :middle], body[:, middle:])] == [True, False]
    assert [has(half, TRUTH_COLOUR) for half in (body[:, :middle], body[:, middle:])] == [False, True]


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
