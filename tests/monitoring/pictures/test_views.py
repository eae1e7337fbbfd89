from __future__ import annotations

import numpy as np
import pytest
import torch

from yolo_lightning.data.batch import Batch
from yolo_lightning.data.images.decode import paste, resize
from yolo_lightning.data.letterbox import letterbox_geometry
from yolo_lightning.monitoring.pictures.views import EvaluatedImage, cut_view, split_batch, surroundings

BOX = np.array([[60, 20, 100, 50]], np.float32)
GREY = 114


def photograph(height: int, width: int, canvas: tuple[int, int], size: int = 128) -> EvaluatedImage:
    """A black image with one white object at ``BOX``, letterboxed into a rectangle as validation does."""
    original = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = BOX[0].astype(int)
    original[y1:y2, x1:x2] = 255
    place = letterbox_geometry(height, width, size, canvas)
    pixels = np.full((*canvas, 3), GREY, np.uint8)
    paste(resize(original, place, linear=False), place, pixels)
    return EvaluatedImage(
        pixels=torch.from_numpy(pixels).permute(2, 0, 1),
        letterbox=np.array([place.gain_x, place.gain_y, place.pad_x, place.pad_y], np.float32),
        size=(height, width),
        position=0,
        image_id=1,
        detections=np.zeros((0, 6), np.float32),
        truth=np.zeros((0, 7), np.float32),
    )


def white(image: np.ndarray) -> list[float]:
    rows, columns = np.nonzero((image > 127).all(axis=2))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize(
    ("height", "width", "canvas"),
    [(120, 160, (128, 160)), (240, 110, (160, 96)), (90, 400, (64, 160)), (70, 110, (96, 160))],
)
@pytest.mark.parametrize("side", [None, 64, 300])
def test_boxes_lie_on_what_they_are_of(
    height: int, width: int, canvas: tuple[int, int], side: int | None
) -> None:
    view = cut_view(photograph(height, width, canvas))
    if side:
        view = view.fit(side)
        assert max(view.image.shape) == side
    assert not (view.image == GREY).all(axis=2).any()  # none of the padding
    assert view.place(BOX)[0] == pytest.approx(white(view.image), abs=1.5)
    height_ratio = view.image.shape[0] / view.image.shape[1] / (height / width)
    assert height_ratio == pytest.approx(1, abs=0.06)


def test_boxes_lie_right_in_a_part_of_the_image() -> None:
    image = photograph(120, 160, (128, 160))
    region = np.array([40, 10, 110, 60])
    view = cut_view(image, region)
    assert view.place(BOX)[0] == pytest.approx(white(view.image), abs=1.5)
    assert view.place(region[None].astype(np.float32))[0] == pytest.approx(
        [0, 0, view.image.shape[1], view.image.shape[0]], abs=1.01
    )


@pytest.mark.parametrize("region", [[-50, -50, -20, -20], [500, 500, 600, 600], [30, 30, 30, 30]])
def test_a_region_without_pixels_gives_one(region: list[float]) -> None:
    view = cut_view(photograph(120, 160, (128, 160)), np.array(region))
    assert min(view.image.shape) >= 1


def test_a_view_is_a_copy() -> None:
    image = photograph(120, 160, (128, 160))
    view = cut_view(image)
    before = view.image.copy()
    image.pixels.zero_()
    assert (view.image == before).all()
    assert image.without_pixels().pixels.untyped_storage().nbytes() == 0


@pytest.mark.parametrize(
    "box", [[0, 0, 10, 10], [50, 60, 90, 70], [630, 470, 640, 480], [0, 0, 640, 480], [-80, 20, 20, 900]]
)
def test_surroundings_are_in_the_image_and_around_the_box(box: list[float]) -> None:
    x1, y1, x2, y2 = surroundings(np.array(box, np.float32), (480, 640)).tolist()
    assert 0 <= x1 < x2 <= 640 and 0 <= y1 < y2 <= 480
    assert x1 <= max(box[0], 0) and y1 <= max(box[1], 0)
    assert x2 >= min(box[2], 640) and y2 >= min(box[3], 480)
    assert x2 - x1 >= 0.3 * 480 - 1e-6


def test_a_batch_is_taken_apart() -> None:
    detections = torch.zeros(2, 5, 6)
    detections[0, :3, 4] = torch.tensor([0.9, 0.25, 0.2])
    detections[1, :, 4] = 0.9  # padding, but for the first
    batch = Batch(
        images=torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4),
        targets=torch.zeros(2, 16, 5),
        count=torch.tensor([2, 0]),
        index=torch.tensor([5, 8]),
        image_ids=torch.tensor([50, 80]),
        original_sizes=torch.tensor([[4, 3], [3, 4]]),
        letterbox=torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 1]]),
        truth=torch.ones(2, 4, 7),
        truth_count=torch.tensor([3, 0]),
    )
    first, second = split_batch(batch, detections, torch.tensor([3, 1]))
    assert [len(first.detections), len(second.detections)] == [2, 1]
    assert [len(first.truth), len(second.truth)] == [3, 0]
    assert (first.size, first.position, first.image_id) == ((4, 3), 5, 50)
    assert (second.size, second.position, second.image_id) == ((3, 4), 8, 80)
    assert torch.equal(second.pixels, batch.images[1])
    batch.truth.zero_()
    assert (first.truth == 1).all()
