from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support import augment_reference as reference
from yolo_lightning.data.augment import AugmentationConfig
from yolo_lightning.data.augment.randomness import VIEW_STREAMS, uniforms
from yolo_lightning.data.augment.warp import draw_warp, is_candidate, warp_boxes
from yolo_lightning.data.image_size import Size


def numbers(samples: int) -> torch.Tensor:
    return uniforms(torch.tensor(1), torch.tensor(2), torch.arange(samples), VIEW_STREAMS)


def test_candidates_equal_a_loop() -> None:
    rng = np.random.default_rng(0)
    before = np.sort(rng.uniform(0, 200, (3000, 2, 2)), axis=1).reshape(-1, 4)
    after = np.sort(rng.uniform(0, 200, (3000, 2, 2)), axis=1).reshape(-1, 4)
    after[::3] = before[::3] * 0.4
    after[1::3, 2] = after[1::3, 0] + rng.uniform(0, 4, 1000)  # around 2 px, and slivers
    found = is_candidate(torch.from_numpy(before), torch.from_numpy(after)).tolist()
    expected = [reference.keep_candidate(b, a) for b, a in zip(before, after, strict=True)]
    assert found == expected
    assert 300 < sum(expected) < 2700


@pytest.mark.parametrize(
    ("after", "kept"),
    [
        ((0, 0, 2, 50), False),  # 2 px wide is too little
        ((0, 0, 2.1, 50), True),
        ((0, 0, 10, 10), False),  # a tenth of the area is too little
        ((0, 0, 10.1, 10), True),
        ((0, 0, 500, 5), False),  # an aspect of 100 is too much
        ((0, 0, 499, 5), True),
        ((7, 7, 7, 7), False),
    ],
)
def test_candidates_at_the_thresholds(after: tuple[float, ...], kept: bool) -> None:
    before = torch.tensor([0.0, 0.0, 50.0, 20.0])
    assert is_candidate(before, torch.tensor(after)).item() is kept


def test_a_flat_box_is_no_candidate_and_gives_no_nan() -> None:
    flat = torch.tensor([[5.0, 5.0, 5.0, 9.0], [0.0, 0.0, 0.0, 0.0]])
    assert is_candidate(flat, flat).tolist() == [False, False]


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (96, 64)])
@pytest.mark.parametrize("factor", [1, 2])
def test_the_warp_equals_a_product_of_matrices_and_its_inverse_inverts_it(factor: int, size: Size) -> None:
    config = AugmentationConfig(degrees=40, shear=10, perspective=0.001, translate=0.3)
    uniform = numbers(50)
    height, width = canvas = size[0] * factor, size[1] * factor
    warp = draw_warp(config, uniform, torch.tensor([[width, height]] * 50), size)
    for i in range(50):
        matrix, zoom = reference.warp_matrix(config, uniform[i].double().numpy(), canvas, size)
        np.testing.assert_allclose(warp.forward[i], matrix, atol=2e-4)
        assert warp.scale[i].item() == pytest.approx(zoom, abs=1e-6)
    identity = torch.eye(3).expand(50, 3, 3)
    torch.testing.assert_close(
        warp.inverse.double() @ warp.forward.double(), identity.double(), atol=1e-3, rtol=0
    )


def test_drawn_parameters_fill_their_classic_ranges() -> None:
    samples, size = 4000, 100
    warp = draw_warp(AugmentationConfig(), numbers(samples), torch.full((samples, 2), 2 * size), (size, size))
    assert torch.equal(warp.forward[:, 0, 1], torch.zeros(samples))
    middle = (warp.forward @ torch.tensor([size, size, 1.0]))[:, :2]  # where the canvas' centre goes
    for values, low, high in ((warp.scale, 0.5, 1.5), (middle[:, 0], 40, 60), (middle[:, 1], 40, 60)):
        place = np.sort((values.double().numpy() - low) / (high - low))
        assert np.abs(place - (np.arange(samples) + 0.5) / samples).max() < 1.63 / np.sqrt(samples)


def test_a_box_over_the_horizon_is_dropped() -> None:
    matrix = torch.eye(3)[None].clone()
    matrix[0, 2, 0] = -0.01  # depth is 0 at x = 100
    boxes = torch.tensor([[[10.0, 10.0, 50.0, 50.0], [10.0, 10.0, 150.0, 50.0]]])
    hull, in_front = warp_boxes(boxes, matrix, (1000, 1000))
    assert in_front.tolist() == [[True, False]]
    torch.testing.assert_close(hull[0, 0], torch.tensor([10 / 0.9, 10 / 0.9, 100.0, 100.0]))
    assert hull.isfinite().all()
