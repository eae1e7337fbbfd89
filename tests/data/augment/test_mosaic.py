from __future__ import annotations

import torch

from tests.support import augment_reference as reference
from yolo_lightning.data.augment.mosaic import choose_tiles, lay_out
from yolo_lightning.data.augment.randomness import VIEW_STREAMS, uniforms
from yolo_lightning.data.augment.recent_images import content_rectangles


def numbers(samples: int) -> torch.Tensor:
    return uniforms(torch.tensor(1), torch.tensor(2), torch.arange(samples), VIEW_STREAMS)


def test_mosaic_centres_and_tile_orders_are_uniform() -> None:
    samples, size = 6000, 64
    batch = reference.make_batch(5, size)
    content = content_rectangles(batch.letterbox, batch.original_sizes)
    uniform, own = numbers(samples), torch.zeros(samples, dtype=torch.int64)
    rows = choose_tiles(uniform, own, torch.tensor(4), torch.tensor(4), 5)  # partners from rows 1 to 4
    layout = lay_out(uniform, rows, own, content, torch.ones(samples, dtype=torch.bool), (size, size))
    assert layout.centre.min() == size // 2 and layout.centre.max() == 3 * size // 2 - 1
    position = (rows == 0).int().argmax(dim=1)
    assert (rows == 0).sum() == samples  # once in each mosaic
    assert ((torch.bincount(position) - 1500.0) ** 2 / 1500).sum() < 11.3  # chi-square, 3 degrees, at 1 %
    partners = torch.bincount(rows.flatten(), minlength=5)[1:]
    assert ((partners - 4500.0) ** 2 / 4500).sum() < 11.3


def test_partners_come_from_the_filled_rows_only() -> None:
    uniform, own = numbers(500), torch.full((500,), 3)
    rows = choose_tiles(uniform, own, torch.tensor(1), torch.tensor(6), 20)
    assert set(rows.flatten().tolist()) == {3, 1, 0, 19, 18, 17, 16}  # back from the newest, row 1
