from __future__ import annotations

import pytest
import torch

from tests.support.augment_reference import make_batch
from yolo_lightning.data.augment import Augmentation, AugmentationConfig
from yolo_lightning.data.augment.recent_images import (
    RecentBuffers,
    RecentImages,
    Written,
    content_rectangles,
)
from yolo_lightning.data.batch import Batch
from yolo_lightning.data.image_size import Size, as_size
from yolo_lightning.data.letterbox import letterbox_geometry
from yolo_lightning.errors import InputError


def unpack(state: RecentBuffers, row: int, size: int) -> torch.Tensor:
    packed = state.pixels[1:].view(-1, size, size)[row]
    return torch.stack([(packed >> shift) & 255 for shift in (0, 8, 16)]).to(torch.uint8)


def rows(written: Written) -> list[int]:
    found: list[int] = written.rows(torch.device("cpu")).tolist()
    return found


def batches(number: int, images: int = 4) -> list[Batch]:
    return [make_batch(images, 32, seed=seed) for seed in range(number)]


def test_keeps_the_newest_batches_and_overwrites_the_oldest() -> None:
    ring, made = RecentImages(3, 0), batches(5)
    for number, batch in enumerate(made):
        written = ring.write(batch, 0)
        assert written.filled == min(4 * (number + 1), 12)
    state, newest = written.buffers, rows(written)[-1]
    kept = [(batch, i) for batch in made[2:] for i in range(4)]
    for age, (batch, i) in enumerate(reversed(kept)):
        row = (newest - age) % 12
        assert torch.equal(unpack(state, row, 32), batch.images[i])
        assert torch.equal(state.targets[row], batch.targets[i])
        assert state.label_count[row] == ring.counts[row] == batch.count[i]
    assert state.pixels[0].item() == 0x727272


def test_a_smaller_batch_wraps_around_the_end() -> None:
    ring, (large, *_) = RecentImages(2, 0), batches(1)
    small = make_batch(3, 32, seed=9)
    for batch in (large, small, small):
        written = ring.write(batch, 0)
    assert rows(written) == [7, 0, 1]
    assert written.filled == 8
    assert ring.counts[[7, 0, 1]].tolist() == small.count.tolist()
    for row, image in zip(rows(written), small.images, strict=True):
        assert torch.equal(unpack(written.buffers, row, 32), image)


@pytest.mark.parametrize(
    ("batch_size", "size", "images"),
    [
        (1, 320, 128),
        (8, 640, 128),
        (16, 320, 128),
        (32, 320, 256),
        (1, 1280, 61),
        (16, 1280, 128),
        (1, (640, 1280), 122),
    ],
)
def test_small_batches_share_a_ring_of_128_images_or_100_megapixels(
    batch_size: int, size: int | Size, images: int
) -> None:
    assert Augmentation(AugmentationConfig()).recent.capacity(batch_size, as_size(size)) == images


def test_a_new_epoch_and_reset_empty_it() -> None:
    ring, (first, second) = RecentImages(4, 0), batches(2)
    fills = [ring.write(batch, epoch).filled for batch, epoch in ((first, 0), (second, 0), (first, 1))]
    ring.reset()
    fills.append(ring.write(first, 1).filled)
    assert fills == [4, 8, 4, 4]


@pytest.mark.parametrize("other", [make_batch(4, 64), make_batch(4, 32, capacity=16), make_batch(5, 32)])
def test_another_shape_starts_a_new_ring(other: Batch) -> None:
    ring = RecentImages(2, 0)
    ring.write(make_batch(4, 32), 0)
    written = ring.write(other, 0)
    assert written.filled == len(other.images)
    size, pairs = other.images.shape[-1], zip(rows(written), other.images, strict=True)
    assert all(torch.equal(unpack(written.buffers, row, size), image) for row, image in pairs)


def test_too_large_is_refused() -> None:
    with pytest.raises(InputError, match="lower the batch size"):
        RecentImages(2**20, 0).write(make_batch(4, 32), 0)


@pytest.mark.parametrize("size", [64, 320, 640])
def test_content_rectangles_invert_the_letterbox(size: int) -> None:
    originals = [(480, 640), (427, 640), (333, 500), (612, 612), (1, 3000), (1281, 37)]
    boxes = [letterbox_geometry(height, width, (size, size)) for height, width in originals]
    letterbox = torch.tensor([[b.gain_x, b.gain_y, b.pad_x, b.pad_y] for b in boxes])
    found = content_rectangles(letterbox, torch.tensor(originals))
    assert found.tolist() == [[b.pad_x, b.pad_y, b.width, b.height] for b in boxes]
