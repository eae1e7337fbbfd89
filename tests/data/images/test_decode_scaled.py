"""What training decodes: large JPEGs at a part of their size."""

from __future__ import annotations

import io
import math

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from yolo_lightning.data.images.decode import decode_scaled, draw
from yolo_lightning.errors import InputError


def _drawn(data: bytes, size: tuple[int, int], image_size: int, train: bool) -> np.ndarray:
    canvas = np.empty((image_size, image_size, 3), np.uint8)
    draw(data, "a.img", size, (image_size, image_size), train, canvas)
    return canvas


def _smooth(height: int, width: int, sigma: float) -> np.ndarray:
    """A picture of waves, as strong in every size, without anything finer than ``sigma`` px."""
    noise = np.random.default_rng(0).normal(size=(height, width, 3)).astype(np.float32)
    waves = cv2.GaussianBlur(noise, (0, 0), sigma)
    return (128 + 50 * waves / waves.std()).clip(0, 255).astype(np.uint8)


def _jpeg(picture: np.ndarray, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "jpeg", exif=exif, quality=95)
    return data.getvalue()


SCALED = [
    # Size at 64 px wanted, and the size that is decoded, by hand: sides / 2, 4 or 8, rounded up.
    ((96, 127), (96, 127)),
    ((96, 128), (48, 64)),
    ((128, 96), (64, 48)),
    ((97, 129), (49, 65)),
    ((144, 192), (72, 96)),
    ((191, 255), (96, 128)),
    ((192, 256), (48, 64)),
    ((384, 511), (96, 128)),
    ((384, 512), (48, 64)),
    ((432, 576), (54, 72)),
    ((577, 433), (73, 55)),
    ((64, 64), (64, 64)),
    ((20, 30), (20, 30)),
]


@pytest.mark.parametrize(("size", "decoded"), SCALED)
def test_jpegs_of_twice_the_size_and_more_are_decoded_smaller(
    size: tuple[int, int], decoded: tuple[int, int]
) -> None:
    pixels = decode_scaled(_jpeg(_smooth(*size, sigma=2)), "a.jpg", size, (64, 64))
    assert pixels.shape == (*decoded, 3) and pixels.dtype == np.uint8


@pytest.mark.parametrize("size", [(96, 128), (384, 512)])
def test_others_are_decoded_whole(size: tuple[int, int]) -> None:
    picture = _smooth(*size, sigma=2)
    for kind, options in (("png", {}), ("webp", {"lossless": True})):
        data = io.BytesIO()
        Image.fromarray(picture).save(data, kind, **options)
        np.testing.assert_array_equal(decode_scaled(data.getvalue(), f"a.{kind}", size, (64, 64)), picture)


def test_evaluation_shrinks_the_whole_picture() -> None:
    data = _jpeg(_smooth(384, 512, sigma=2))
    whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    expected = cv2.resize(whole, (64, 48), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(_drawn(data, (384, 512), 64, train=False)[8:56], expected)


@pytest.mark.parametrize(
    "size",
    [
        *[(96, 127), (96, 128), (144, 192), (192, 256), (384, 512), (432, 576)],
        # These are no multiples of what they are divided by.
        *[(97, 129), (145, 193), (197, 256), (385, 512), (577, 433)],
    ],
)
def test_what_is_drawn_from_a_smaller_decode_is_the_whole_picture_shrunk(size: tuple[int, int]) -> None:
    data = _jpeg(_smooth(*size, sigma=1.5 * max(size) / 64))
    whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    height, width = (math.ceil(side * 64 / max(size)) for side in size)
    expected = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA).astype(float)
    top, left = (64 - height) // 2, (64 - width) // 2
    found = _drawn(data, size, 64, True)[top : top + height, left : left + width]
    one_pixel_off = np.abs(expected[1:] - expected[:-1]).mean()
    assert np.abs(found - expected).mean() < 0.15 * one_pixel_off


@pytest.mark.parametrize("annotated", ["displayed", "stored"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_jpegs_of_odd_sizes_stand_upright_at_any_size(orientation: int, annotated: str) -> None:
    stored = _smooth(131, 203, 4)
    data = _jpeg(stored, orientation)
    turned = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    # Where the two sizes are one, the picture is meant as it is displayed.
    expected = stored if annotated == "stored" and turned.shape != stored.shape else turned
    height, width = expected.shape[:2]
    pixels = decode_scaled(data, "a.jpg", (height, width), (64, 64))
    # Turned, the partial row or column of the reduced picture could be its first: decoded in full.
    is_full = orientation != 1 and expected is turned
    assert pixels.shape == ((height, width, 3) if is_full else (-(-height // 2), -(-width // 2), 3))
    grown = cv2.resize(pixels, (width, height)).astype(float)
    same_way, *others = (
        np.abs(grown - way).mean()
        for way in (expected, expected[::-1], expected[:, ::-1], expected[::-1, ::-1])
    )
    assert same_way < 0.2 * min(others)


def test_annotations_of_the_unturned_pixels_get_those_of_a_nearly_square_picture_too() -> None:
    stored = _smooth(127, 128, 8)
    pixels = decode_scaled(_jpeg(stored, orientation=6), "a.jpg", (127, 128), (64, 64))
    grown = cv2.resize(pixels, (128, 127)).astype(float)
    turned = cv2.resize(np.rot90(stored, -1), (128, 127))
    assert np.abs(grown - stored).mean() < 0.2 * np.abs(grown - turned).mean()


@pytest.mark.parametrize(
    ("true", "annotated"),
    [
        ((60, 64), (61, 64)),
        ((96, 128), (97, 128)),
        ((96, 128), (95, 128)),
        ((96, 128), (128, 96)),
        ((192, 256), (192, 255)),
        ((433, 577), (40, 50)),
        ((433, 577), (433, 578)),
        ((433, 577), (433, 590)),
    ],
)
def test_annotations_of_another_size_are_refused_at_any_size(
    true: tuple[int, int], annotated: tuple[int, int]
) -> None:
    with pytest.raises(InputError) as error:
        decode_scaled(_jpeg(_smooth(*true, sigma=2)), "a.jpg", annotated, (64, 64))
    assert str(error.value) == (
        f"a.jpg: the image is {true[1]} x {true[0]} px but its annotations say "
        f"{annotated[1]} x {annotated[0]} px; correct the annotations or replace the image"
    )


def test_truncated_images_are_refused_at_any_size() -> None:
    data = _jpeg(_smooth(600, 800, sigma=2))
    for part in (0.1, 0.5, 0.97):
        with pytest.raises(InputError, match=r"a\.jpg: .*(truncated|not a readable image)"):
            decode_scaled(data[: int(part * len(data))], "a.jpg", (600, 800), (64, 64))
