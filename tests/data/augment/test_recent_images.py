from __future__ import annotations

import pytest
import torch

from tests.support.augment_reference import make_batch
from yolo_lightning.data.augment.recent_images import RecentBuffers, RecentImages, content_rectangles
from yolo_lightning.data.batch import Batch
from yolo_lightning.data.letterbox import letterbox_geometry
from yolo_lightning.errors import InputError


def unpack(state: RecentBuffers, row: int, size: int) -> torch.Tensor:
    packed = state.pixels[1:].view(-1, size, size)[row]
    return torch.stack([(packed >> shift) & 255 for shift in (0, 8, 16)]).to(torch.uint8)


def batches(number: int, images: int = 4) -> list[Batch]:
    return [make_batch(images, 32, seed=seed) for seed in range(number)]


def test_keeps_the_newest_batches_and_overwrites_the_oldest() -> None:
    ring, made = RecentImages(3), batches(5)
    for number, batch in enumerate(made):
        state, rows, filled = ring.write(batch, torch.tensor(0))
        assert filled.item() == min(4 * (number + 1), 12)
    newest, kept = int(rows[-1]), [(batch, i) for batch in made[2:] for i in range(4)]
    for age, (batch, i) in enumerate(reversed(kept)):
        row = (newest - age) % 12
        assert torch.equal(unpack(state, row, 32), batch.images[i])
        assert torch.equal(state.targets[row], batch.targets[i])
        assert state.label_count[row] == batch.count[i]
    assert state.pixels[0].item() == 0x727272


def test_a_smaller_batch_wraps_around_the_end() -> None:
    ring, (large, *_) = RecentImages(2), batches(1)
    small = make_batch(3, 32, seed=9)
    for batch in (large, small, small):
        state, rows, filled = ring.write(batch, torch.tensor(0))
    assert rows.tolist() == [7, 0, 1]
    assert filled.item() == 8
    for row, image in zip(rows.tolist(), small.images, strict=True):
        assert torch.equal(unpack(state, row, 32), image)


def test_a_new_epoch_and_reset_empty_it() -> None:
    ring, (first, second) = RecentImages(4), batches(2)
    fills = [ring.write(batch, torch.tensor(epoch))[2].item() for batch, epoch in ((first, 0), (second, 0))]
    fills.append(ring.write(first, torch.tensor(1))[2].item())
    ring.reset()
    fills.append(ring.write(first, torch.tensor(1))[2].item())
    assert fills == [4, 8, 4, 4]


@pytest.mark.parametrize("other", [make_batch(4, 64), make_batch(4, 32, capacity=16), make_batch(5, 32)])
def test_another_shape_starts_a_new_ring(other: Batch) -> None:
    ring = RecentImages(2)
    ring.write(make_batch(4, 32), torch.tensor(0))
    state, rows, filled = ring.write(other, torch.tensor(0))
    assert filled.item() == len(other.images)
    size = other.images.shape[-1]
    assert all(torch.equal(unpack(state, int(r), size), i) for r, i in zip(rows, other.images, strict=True))


def test_too_large_is_refused() -> None:
    with pytest.raises(InputError, match="lower the batch size"):
        RecentImages(2**20).write(make_batch(4, 32), torch.tensor(0))


@pytest.mark.parametrize("size", [64, 320, 640])
def test_content_rectangles_invert_the_letterbox(size: int) -> None:
    originals = [(480, 640), (427, 640), (333, 500), (612, 612), (1, 3000), (1281, 37)]
    boxes = [letterbox_geometry(height, width, size) for height, width in originals]
    letterbox = torch.tensor([[b.gain_x, b.gain_y, b.pad_x, b.pad_y] for b in boxes])
    found = content_rectangles(letterbox, torch.tensor(originals))
    assert found.tolist() == [[b.pad_x, b.pad_y, b.width, b.height] for b in boxes]
