from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from yolo_lightning.data.augment import normalise
from yolo_lightning.data.loading.dataset import PredictionDataset, collate
from yolo_lightning.errors import InputError
from yolo_lightning.model.blocks import MODEL_FILES
from yolo_lightning.model.network import DetectionNetwork, build_network
from yolo_lightning.model.weights import load_weights, transfer_weights
from yolo_lightning.monitoring.features import (
    attention_map,
    check_layers,
    describe_layer,
    draw_grid,
    draw_overlay,
    feature_maps,
    strongest_channels,
)

OFFICIAL = Path(__file__).parents[3] / "shared" / "weights" / "yolov5n.pt"
BUS = MODEL_FILES.parents[2] / "assets" / "bus.jpg"
BUS_BOXES = np.array(
    [[16, 137, 477, 458], [32, 234, 126, 529], [129, 241, 204, 513], [405, 221, 480, 522], [0, 338, 43, 531]],
    np.float32,
)
"""A bus and four people, read off the photo: x1, y1, x2, y2 in px at 480 x 640."""
NOTHING = np.zeros((0, 4), np.float32)
GAP = 4


def pictures(size: int = 64) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def hooks(network: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(module, kind)) for module in network.modules() for kind in kinds)


@pytest.fixture
def network() -> DetectionNetwork:
    torch.manual_seed(0)
    return build_network("yolov5n", 3)


def test_the_outputs_are_those_of_the_layers(network: DetectionNetwork) -> None:
    raw, found = feature_maps(network, pictures(), [10, 0, 17, 9])
    assert list(found) == [10, 0, 17, 9]
    network.eval()
    with torch.no_grad():
        first: Any = network.model[0](pictures())
        backbone: Any = network.model[:10](pictures())  # each layer reads the one before
        assert torch.equal(found[0], first)
        assert torch.equal(found[9], backbone)
        assert torch.equal(found[10], network.model[10](backbone))
        expected = network.forward(pictures())
    assert found[17].shape == (2, 64, 8, 8)
    assert all(torch.equal(one, other) for one, other in zip(raw, expected, strict=True))


@pytest.mark.parametrize(
    ("architecture", "sources"), [("yolov5n", [17, 20, 23]), ("yolov5n6", [23, 26, 29, 32]),
    ("yolov5nu", [17, 20, 23])],
)  # fmt: skip
def test_the_layers_of_the_head_have_its_strides(architecture: str, sources: list[int]) -> None:
    network = build_network(architecture, 2)
    assert list(network.head_sources) == sources
    _, found = feature_maps(network, pictures(128), sources)
    assert [128 // found[number].shape[-1] for number in sources] == list(network.strides)


def test_nothing_of_the_network_changes(network: DetectionNetwork) -> None:
    network(pictures())[0].sum().backward()
    network.model[3].eval()  # as a frozen part of it may be
    state = {name: value.clone() for name, value in network.state_dict().items()}
    gradients = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    modes, random = [module.training for module in network.modules()], torch.get_rng_state()
    feature_maps(network, pictures(), [17, 23])
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    after = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    assert after.keys() == gradients.keys()
    assert all(torch.equal(after[name], gradients[name]) for name in gradients)
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert hooks(network) == 0


def test_hooks_and_modes_are_as_before_when_the_pass_fails(network: DetectionNetwork) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    network.model[20].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        feature_maps(network, pictures(), [17, 23])
    assert hooks(network) == 1  # ours are gone
    assert all(module.training for module in network.modules())


def test_a_compiled_training_step_is_not_compiled_again(network: DetectionNetwork) -> None:
    def loss(run: Callable[..., Any], images: Tensor) -> Tensor:
        return torch.stack([one.square().mean() for one in run(images)]).sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="eager", fullgraph=True, dynamic=False)
    compiled(network, pictures()).backward()
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    feature_maps(network, pictures(96), [17, 20, 23])
    compiled(network, pictures()).backward()
    assert counters["stats"]["unique_graphs"] == graphs
    torch._dynamo.reset()


def test_wrong_layers_are_refused_with_those_that_exist(network: DetectionNetwork) -> None:
    assert check_layers(network, [17, 10, 17]) == [17, 10]
    assert describe_layer(network, 17) == "17 C3"
    for wrong in (24, 99, -1):  # 24 is the head
        with pytest.raises(InputError, match=rf"--layers: there is no layer {wrong} .* 0 Conv, .*, 23 C3$"):
            check_layers(network, [17, wrong], "--layers")
    with pytest.raises(InputError, match="no layer is named"):
        check_layers(network, [])
    assert hooks(network) == 0


def noise(channels: int = 6, height: int = 8, width: int = 10) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(channels, height, width)).astype(np.float32)


def luminance(picture: np.ndarray) -> np.ndarray:
    return picture @ np.array([0.299, 0.587, 0.114])


def test_the_channels_that_vary_most_come_first() -> None:
    features = noise(5) * np.array([1, 5, 0, 3, 4], np.float32)[:, None, None] + 100
    assert strongest_channels(features, 3) == [1, 4, 3]
    assert strongest_channels(features, 99) == [1, 4, 3, 0, 2]


def test_a_tile_shows_its_cells() -> None:
    ramp = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    picture = draw_grid(ramp, tile_px=40)
    assert picture.dtype == np.uint8
    assert picture.shape == (3 * 10 + 2 * GAP, 4 * 10 + 2 * GAP, 3)
    cells = luminance(picture[GAP:-GAP, GAP:-GAP]).reshape(3, 10, 4, 10)
    assert (cells == cells[:, :1, :, :1]).all()  # each is of one colour
    values = cells[:, 0, :, 0].ravel()
    assert (np.diff(values) > 0).all()  # this colour map is brighter, the higher
    assert values[0] < 40
    assert values[-1] > 200


def test_bilinear_blurs_between_cells() -> None:
    step = np.array([[[0, 1]]], np.float32)
    hard, soft = (draw_grid(step, tile_px=100, interpolation=kind) for kind in ("nearest", "bilinear"))
    assert len(np.unique(luminance(hard[GAP:-GAP, GAP:-GAP]))) == 2
    assert len(np.unique(luminance(soft[GAP:-GAP, GAP:-GAP]))) > 20


def test_one_cell_does_not_decide_what_is_seen_of_the_others() -> None:
    features = noise(1, 20, 20)
    spoiled = features.copy()
    spoiled[0, 3, 3] = 1e6
    plain, robust = (luminance(draw_grid(one, tile_px=20)[GAP:-GAP, GAP:-GAP]) for one in (features, spoiled))
    plain[3, 3] = robust[3, 3] = 0
    assert np.abs(plain - robust).mean() < 2  # of 255


def test_a_single_cell_that_stands_out_is_seen() -> None:
    features = np.zeros((1, 20, 20), np.float32)
    features[0, 7, 5] = 3
    tile = luminance(draw_grid(features, tile_px=20)[GAP:-GAP, GAP:-GAP])
    assert np.unravel_index(tile.argmax(), tile.shape) == (7, 5)
    assert tile.max() > tile.min() + 100


@pytest.mark.parametrize("value", [0.0, 7.0, float("nan"), float("inf")])
def test_a_channel_without_contrast_is_dark(value: float) -> None:
    picture = draw_grid(np.full((1, 4, 4), value, np.float32))
    assert len(np.unique(picture[GAP:-GAP, GAP:-GAP].reshape(-1, 3), axis=0)) == 1
    assert luminance(picture[GAP:-GAP, GAP:-GAP]).max() < 40


def test_a_grid_holds_the_tiles_that_fit_and_no_more() -> None:
    picture = draw_grid(noise(64), most=6, tile_px=80)  # 64 x 80 px each, in two rows
    assert picture.shape == (GAP + 3 * (64 + GAP), GAP + 2 * (80 + GAP), 3)
    assert draw_grid(noise(64, 320, 200), most=1).shape == (320 + 2 * GAP, 200 + 2 * GAP, 3)


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features (12, 16, 20), a strong pattern above and a weaker one in an object; its box, 8 px a cell."""
    random = np.random.default_rng(seed)
    features = random.normal(scale=0.05, size=(12, 16, 20))
    background, thing = random.normal(size=(2, 12, 1, 1))
    features[:, :4] += 3 * background
    features[:, 8:14, 5:11] += thing
    return features.astype(np.float32), np.array([[5 * 8, 8 * 8, 11 * 8, 14 * 8]], np.float32)


def regions(attention: np.ndarray) -> tuple[float, float, float]:
    """Means over the object, over the strong pattern, and over the rest."""
    rest = np.ones_like(attention, bool)
    rest[:40] = rest[56:120, 32:96] = False
    return attention[64:112, 40:88].mean(), attention[:32].mean(), attention[rest].mean()


def test_without_boxes_it_is_the_first_principal_component() -> None:
    features, _ = scene()
    attention = attention_map([features], NOTHING, (16, 20))  # a cell a px: nothing is interpolated
    cells = features.reshape(12, -1).T.astype(np.float64)
    centred = cells - cells.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    component = left[:, 0] * values[0]
    found = attention.ravel()
    shown = (found > 0) & (found < 1)
    assert shown.sum() > 20
    ratio = component[shown] / found[shown]
    assert np.allclose(ratio, ratio[0], rtol=1e-4)
    _, strongest, rest = regions(attention_map([features], NOTHING, (128, 160)))
    assert strongest > 0.8
    assert rest < 0.3


@pytest.mark.parametrize("seed", range(5))
def test_boxes_lead_it_to_what_is_in_them(seed: int) -> None:
    features, boxes = scene(seed)
    thing, _, rest = regions(attention_map([features], boxes, (128, 160)))
    assert thing > 0.7
    assert thing > 3 * rest


def test_boxes_mask_nothing() -> None:
    features, boxes = scene()
    twin = features.copy()
    twin[:, 8:14, 13:19] = features[:, 8:14, 5:11]  # looks alike, and no box is on it
    attention = attention_map([twin], boxes, (128, 160))
    assert attention[72:104, 112:144].mean() == pytest.approx(attention[72:104, 48:80].mean(), rel=0.05)


@pytest.mark.parametrize("channels", [3, 400])
def test_few_and_many_channels_agree(channels: int) -> None:
    random = np.random.default_rng(1)
    place = np.zeros((8, 8))
    place[2:5, 3:7] = 1
    features = (random.normal(size=(channels, 1, 1)) * place + 1).astype(np.float32)
    attention = attention_map([features], np.array([[3, 2, 7, 5]], np.float32), (8, 8))
    assert np.allclose(attention, place, atol=1e-4)


def test_layers_of_all_strides_are_brought_together() -> None:
    fine, coarse = np.zeros((2, 16, 16), np.float32), np.zeros((3, 4, 4), np.float32)
    fine[0, 2:6, 2:6], coarse[1, 2, 2] = 1, 5
    attention = attention_map([fine, coarse], NOTHING, (64, 64))
    assert attention.shape == (64, 64)
    assert attention[12:20, 12:20].mean() > 0.7
    assert attention[39, 39] > 0.7
    assert attention[50:, :10].max() < 0.1


@pytest.mark.parametrize("value", [0.0, 3.0, float("nan")])
def test_without_contrast_there_is_no_attention(value: float) -> None:
    attention = attention_map([np.full((4, 5, 5), value, np.float32)], NOTHING, (40, 40))
    assert attention.max() < 1e-6
    everywhere = np.array([[-10, -10, 90, 90]], np.float32)  # reaches out of the image
    assert np.isfinite(attention_map([scene()[0]], everywhere, (128, 160))).all()


def test_the_overlay_is_dark_where_nothing_is_looked_at() -> None:
    image = np.full((4, 4, 3), 200, np.uint8)
    attention = np.zeros((4, 4), np.float32)
    attention[1, 2] = 1
    picture = draw_overlay(image, attention).astype(int)
    assert picture.shape == (4, 4, 3)
    assert (picture[0, 0] < 100).all()
    assert picture[1, 2].sum() > 2 * picture[0, 0].sum()
    assert (image == 200).all()


def contrast_on_the_bus(weights: Path | None, layers: list[int]) -> tuple[float, list[float]]:
    """Mean attention within all boxes over that outside of them, and the same for each box."""
    torch.manual_seed(0)
    network = build_network("yolov5n", 80)
    if weights:
        transfer_weights(network, load_weights(weights))
    batch = collate([PredictionDataset([BUS], (640, 640))[0]])
    _, found = feature_maps(network, normalise(batch.images), layers)
    attention = attention_map([value[0].numpy() for value in found.values()], BUS_BOXES, (640, 480))
    inside = np.zeros((640, 480), bool)
    parts = []
    for x1, y1, x2, y2 in BUS_BOXES.astype(int).tolist():
        inside[y1:y2, x1:x2] = True
        parts.append(attention[y1:y2, x1:x2].mean())
    outside = attention[~inside].mean()
    return attention[inside].mean() / outside, [part / outside for part in parts]


@pytest.mark.skipif(not OFFICIAL.is_file(), reason="needs the official weights beside the checkout")
@pytest.mark.parametrize("layers", [[17, 20, 23], [10, 17, 20, 23]])
def test_the_official_network_looks_at_the_bus_and_the_people(layers: list[int]) -> None:
    whole, parts = contrast_on_the_bus(OFFICIAL, layers)
    assert whole > 5
    assert min(parts) > 5
    assert whole > 2 * contrast_on_the_bus(None, layers)[0]  # the boxes by themselves make little of it
