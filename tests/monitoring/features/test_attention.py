from pathlib import Path

import numpy as np
import pytest
import torch

from yolo_lightning.data.augment import normalise
from yolo_lightning.data.loading.dataset import PredictionDataset, collate
from yolo_lightning.model.blocks import MODEL_FILES
from yolo_lightning.model.network import build_network
from yolo_lightning.model.weights import load_weights, transfer_weights
from yolo_lightning.monitoring.features import attention_map, draw_overlay, feature_maps

OFFICIAL = Path(__file__).parents[4] / "shared" / "weights" / "yolov5n.pt"
BUS = MODEL_FILES.parents[2] / "assets" / "bus.jpg"
BUS_BOXES = np.array(
    [[16, 137, 477, 458], [32, 234, 126, 529], [129, 241, 204, 513], [405, 221, 480, 522], [0, 338, 43, 531]],
    np.float32,
)
"""A bus and four people, read off the photo: x1, y1, x2, y2 in px at 480 x 640."""
NOTHING = np.zeros((0, 4), np.float32)


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
    batch = collate([PredictionDataset([BUS], 640)[0]])
    found = feature_maps(network, normalise(batch.images), layers).layers
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
