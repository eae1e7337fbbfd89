import numpy as np
import pytest

from yolo_lightning.monitoring.features import draw_grid, strongest_channels

GAP = 4


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
