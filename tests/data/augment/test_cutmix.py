from __future__ import annotations

import torch

from tests.support.augment_reference import make_batch
from yolo_lightning.data.augment import Augmentation, AugmentationConfig
from yolo_lightning.data.augment.cutmix import choose_area, draw_areas, outside, paste
from yolo_lightning.data.augment.randomness import SampleStream, uniforms


def draws(samples: int) -> torch.Tensor:
    return uniforms(torch.tensor(1), torch.tensor(0), torch.arange(samples), SampleStream.END)


def test_rectangles_cover_any_part_of_the_picture() -> None:
    sides = draw_areas(draws(4000), (64, 64))[..., 2:] - draw_areas(draws(4000), (64, 64))[..., :2]
    whole = sides.prod(dim=-1) / 64**2
    assert whole.max() > 0.9 and whole.min() == 0
    assert 0.25 < whole.mean() < 0.5  # half on average, of which the edge of the picture takes a part


def test_only_a_free_rectangle_is_chosen_and_each_is_as_likely() -> None:
    uniform = draws(3000)
    areas = draw_areas(uniform, (64, 64))
    image, is_label = torch.arange(3000), torch.ones(3000, dtype=torch.bool)
    chosen = choose_area(uniform, image, torch.zeros(3000, 4), ~is_label, (64, 64))
    found = [(chosen == areas[:, n]).all(dim=1).float().mean() for n in range(3)]
    assert all(0.3 < share < 0.37 for share in found)
    everywhere = torch.tensor([0.0, 0.0, 64.0, 64.0]).expand(3000, 4)
    taken = choose_area(uniform, image, everywhere, is_label, (64, 64))
    assert ((taken[:, 2:] - taken[:, :2]).prod(dim=1) == 0).all()


def test_a_box_is_pasted_with_a_tenth_of_it() -> None:
    area = torch.tensor([[10.0, 10.0, 30.0, 30.0]])
    boxes = torch.tensor([[29.0, 10.0, 38.0, 20.0], [28.0, 0.0, 48.0, 30.0], [0.0, 0.0, 60.0, 60.0]])
    areas, image = area.repeat(2, 1), torch.tensor([1, 0, 1])
    clipped, mask, used = paste(areas, image, boxes, torch.ones(3, dtype=torch.bool))
    assert mask.tolist() == [True, False, True]
    assert clipped[0].tolist() == [29, 10, 30, 20] and clipped[2].tolist() == [10, 10, 30, 30]
    assert not used[0].any() and torch.equal(used[1], area[0])  # nothing is pasted into the first


def test_pixels_of_the_rectangle() -> None:
    found = outside(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.arange(1, 4), 5)
    assert found[0].tolist() == [[1, 1, 1, 1, 1], [1, 0, 0, 1, 1], [1, 0, 0, 1, 1]]


def test_without_mosaic_there_is_no_cutmix() -> None:
    batch = make_batch(6, 64)
    plain = Augmentation(AugmentationConfig())(batch, 0, mosaic=False)
    assert torch.equal(Augmentation(AugmentationConfig(cutmix=1.0))(batch, 0, mosaic=False)[0], plain[0])


def test_swapped_channels() -> None:
    batch = make_batch(6, 64)
    plain = Augmentation(AugmentationConfig())(batch, 0)[0]
    assert torch.equal(Augmentation(AugmentationConfig(bgr=1.0))(batch, 0)[0], plain.flip(1))


def test_one_graph_with_cutmix_and_bgr() -> None:
    torch._dynamo.reset()
    augmentation = Augmentation(AugmentationConfig(cutmix=0.5, mixup=0.5, bgr=0.5))
    augmentation.core.compile(fullgraph=True, dynamic=False, backend="eager")
    expected = Augmentation(augmentation.config)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for epoch in range(2):
            batch = make_batch(4, 64, seed=epoch)
            found, right = augmentation(batch, epoch), expected(batch, epoch)
            torch.testing.assert_close(found[1:], right[1:], atol=1e-3, rtol=0)
            assert (found[0] - right[0]).abs().mean() < 0.1 / 255
