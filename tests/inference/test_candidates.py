from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from yolo_lightning.inference.candidates import in_tiles, of_ensemble, with_augmentation

LEVELS = 3


def bright_region(images: Tensor) -> tuple[Tensor, Tensor]:
    """A model of three levels (strides 8, 16, 32) that finds the bright part of each image in every cell.

    The scores are those of a one-hot class for the level.
    """
    height, width = images.shape[2:]
    counts = [height * width // stride**2 for stride in (8, 16, 32)]
    boxes = []
    for image in images:
        rows, columns = (image.amin(0) > 0.75).nonzero(as_tuple=True)
        if len(rows):
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        else:
            box = [torch.tensor(0)] * 4
        boxes.append(torch.stack(box).float().expand(sum(counts), 4))
    scores = torch.cat([torch.eye(LEVELS)[k].expand(n, LEVELS) for k, n in enumerate(counts)])
    found = torch.stack(boxes)
    is_there = (found[..., 2] > 0).float()[..., None]
    return found, scores.expand(len(images), -1, -1) * is_there


def square(height: int, width: int, *boxes: tuple[int, int, int, int]) -> Tensor:
    image = torch.full((1, 3, height, width), 0.2)
    for x1, y1, x2, y2 in boxes:
        image[..., y1:y2, x1:x2] = 1
    return image


def test_an_ensemble_has_all_candidates_of_each() -> None:
    image = square(64, 64, (8, 8, 24, 40))
    boxes, scores = of_ensemble([bright_region, bright_region])(image)
    alone = bright_region(image)
    assert torch.equal(boxes, torch.cat((alone[0], alone[0]), 1))
    assert torch.equal(scores, torch.cat((alone[1], alone[1]), 1))


def test_boxes_of_every_scale_and_of_the_mirrored_image_lie_on_the_object() -> None:
    image = square(192, 320, (40, 60, 140, 160))
    boxes, scores = with_augmentation(bright_region, 32, LEVELS)(image)
    # The sides of the scaled images, rounded up to whole strides: 192 x 320, 160 x 288, 160 x 224.
    first, second, last = (h * w // 1024 for h, w in ((192, 320), (160, 288), (160, 224)))
    # The coarsest level of the first and the finest of the last image are left out.
    assert boxes.shape[1] == first * 20 + second * 21 + last * 5
    levels = scores.argmax(-1)[0]
    assert set(levels[: first * 20].tolist()) == {0, 1} and set(levels[-last * 5 :].tolist()) == {1, 2}
    assert (boxes - torch.tensor([40.0, 60, 140, 160])).abs().max() < 3


def test_a_large_image_is_seen_in_tiles_and_as_a_whole() -> None:
    seen: list[tuple[int, ...]] = []

    def model(images: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(tuple(images.shape[2:]))
        return bright_region(images)

    image = square(128, 320, (150, 30, 180, 60))  # smaller than the overlap, and cut by a tile's edge
    boxes, scores = in_tiles(model, 128, 0.25, 32)(image)
    assert seen[0] == (64, 128) and set(seen[1:]) == {(128, 128)} and len(seen) == 4
    kept = boxes[0][scores[0].amax(-1) > 0]
    whole = 64 * 128 // 64 + 64 * 128 // 256 + 64 * 128 // 1024
    of_tiles = kept[whole:]
    assert len(of_tiles) > 0 and (of_tiles == torch.tensor([150.0, 30, 180, 60])).all()
    assert (kept[:whole] - torch.tensor([150.0, 30, 180, 60])).abs().max() < 4


def test_a_box_that_an_edge_cuts_is_left_to_the_whole_image() -> None:
    image = square(128, 320, (20, 0, 300, 128))  # larger than a tile; it reaches the image's own edges, too
    boxes, scores = in_tiles(bright_region, 128, 0.25, 32)(image)
    kept = boxes[0][scores[0].amax(-1) > 0]
    assert len(kept) and (kept - torch.tensor([20.0, 0, 300, 128])).abs().max() < 6


def test_an_image_of_one_tile_is_not_scaled() -> None:
    image = square(96, 128, (10, 10, 40, 40))
    for found, wanted in zip(in_tiles(bright_region, 128, 0.2, 32)(image), bright_region(image), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("side", [129, 200, 256, 1000, 4097])
def test_tiles_cover_a_side_with_their_overlap(side: int) -> None:
    width = (side + 31) // 32 * 32
    seen: list[float] = []

    def model(images: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(images[0, 0, 0, 0].item())
        return bright_region(images)

    columns = torch.arange(width, dtype=torch.float64)
    in_tiles(model, 128, 0.2, 32)(columns.expand(1, 3, 32, width))
    starts = seen[1:]
    assert starts[0] == 0 and starts[-1] == width - 128
    assert all(0 < b - a <= 128 * 0.8 + 1 for a, b in pairwise(starts))
