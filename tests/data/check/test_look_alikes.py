from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from yolo_lightning.data.check.look_alikes import Looks, describe_looks, find_look_alikes

Pixels = npt.NDArray[np.uint8]


def scene(seed: int, width: int = 160, height: int = 120) -> Pixels:
    """A picture of soft and sharp parts."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    for _ in range(6):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        cv2.circle(image, (x, y), int(rng.integers(4, 20)), rng.integers(0, 256, 3).tolist(), -1)
    return image


def encoded(image: Pixels, quality: int) -> Pixels:
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR).astype(np.uint8)


CHANGES = {
    "encoded again": lambda image: encoded(image, 60),
    "smaller": lambda image: cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
    "larger": lambda image: cv2.resize(image, None, fx=1.5, fy=1.5),
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=1.0, beta=10),
    "darker": lambda image: cv2.convertScaleAbs(image, alpha=0.92),
    "cropped at a corner": lambda image: image[3:, 4:],
    "cropped and encoded": lambda image: encoded(np.ascontiguousarray(image[2:-2, 3:-3]), 80),
}


def find(images: list[Pixels]) -> list[int]:
    looks = [describe_looks(image) for image in images]
    bits = np.array([one.bits for one in looks], np.uint64)
    trimmed = np.array([one.trimmed for one in looks], np.uint64)
    return find_look_alikes(bits, trimmed, np.stack([one.colours for one in looks])).tolist()


@pytest.fixture(scope="module")
def originals() -> list[Pixels]:
    return [scene(seed) for seed in range(100)]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_all_near_duplicates_are_found_and_none_is_invented(originals: list[Pixels], change: object) -> None:
    changed = [np.asarray(change(image), np.uint8) for image in originals]  # type: ignore[operator]
    assert find([*originals, *changed]) == [-1] * 100 + list(range(100))


def test_a_group_has_one_first_image(originals: list[Pixels]) -> None:
    a, b = originals[:2]
    assert find([b, a, encoded(a, 50), encoded(b, 70), encoded(a, 90)]) == [-1, -1, 1, 0, 1]


def test_blank_pictures_have_no_looks() -> None:
    rng = np.random.default_rng(0)
    blank = [np.full((50, 60, 3), grey, np.uint8) for grey in (0, 128, 255)]
    noisy = [np.clip(255 - rng.exponential(1.0, (200, 300, 3)), 0, 255).astype(np.uint8) for _ in range(9)]
    assert find([*blank, *noisy, *blank]) == [-1] * 15


def test_the_same_shapes_in_other_colours_are_another_picture() -> None:
    def square(ground: tuple[int, int, int], ink: tuple[int, int, int]) -> Pixels:
        image = np.full((48, 64, 3), ground, np.uint8)
        return cv2.rectangle(image, (16, 12), (32, 24), ink, -1).astype(np.uint8)

    pictures = [square((200, 20, 20), (20, 20, 200)), square((20, 200, 20), (200, 20, 20))]
    assert find(pictures) == [-1, -1]


def test_hashes_agree_with_a_plain_comparison_of_all_pairs() -> None:
    """Random hashes of few values, so that many are close; up to 7 bits are found for certain."""
    rng = np.random.default_rng(1)
    bits = rng.integers(1, 1 << 62, 8, dtype=np.uint64)[rng.integers(0, 8, 300)]
    for _ in range(5):
        bits ^= np.uint64(1) << rng.integers(0, 60, 300, dtype=np.uint64)
    colours = np.tile(np.arange(192, dtype=np.uint8).reshape(8, 8, 3), (300, 1, 1, 1))
    found = find_look_alikes(bits, bits, colours)
    for n in range(300):
        distances = [int(bits[n] ^ bits[m]).bit_count() for m in range(n)]
        certain = next((m for m, distance in enumerate(distances) if distance <= 7), -1)
        assert found[n] == certain or (found[n] >= 0 and distances[found[n]] <= 14)
        assert certain < 0 or found[n] <= certain


def test_looks_are_plain_values() -> None:
    looks = describe_looks(scene(0))
    assert isinstance(looks, Looks) and looks.bits.bit_count() == 32 and looks.colours.shape == (8, 8, 3)
