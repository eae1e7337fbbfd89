"""Files that lack something: whole pictures are read, parts are refused."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, features

from yolo_lightning.data.images.decode import decode_rgb, decode_scaled
from yolo_lightning.data.images.truncation import END, has_all_pixels, has_end
from yolo_lightning.errors import InputError

JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "optimized": {"optimize": True},
    "restarts": {"restart_marker_blocks": 3},
    "restart after each block": {"restart_marker_blocks": 1},
}


def _picture(height: int, width: int, sigma: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), sigma)


def _encoded(kind: str, image: Image.Image, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def _jpegs(options: dict[str, Any]) -> list[bytes]:
    rng = np.random.default_rng(3)
    pictures = [
        Image.fromarray(_picture(*rng.integers(16, 70, 2).tolist(), [0.1, 2, 20][n % 3], n)) for n in range(6)
    ]
    pictures += [Image.new("RGB", (40, 33), "white"), pictures[1].convert("L"), pictures[2].convert("CMYK")]
    return [_encoded("jpeg", picture, quality=40 + 6 * n, **options) for n, picture in enumerate(pictures)]


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_without_its_end_marker_is_whole_if_no_pixel_is_missing(kind: str) -> None:
    for data in _jpegs(JPEGS[kind]):
        whole = decode_rgb(data, "a.jpg")
        assert data.endswith(END)
        for without in (data[:-2], data[:-1], data[:-2] + bytes(5000)):
            assert not has_end(without)
            np.testing.assert_array_equal(decode_rgb(without, "a.jpg"), whole)
        np.testing.assert_array_equal(
            decode_scaled(data[:-2], "a.jpg", whole.shape[:2], (8, 8)),
            decode_scaled(data, "a.jpg", whole.shape[:2], (8, 8)),
        )


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_lacks_more_is_refused_unless_no_pixel_changes(kind: str) -> None:
    accepted = 0
    for data in _jpegs(JPEGS[kind]):
        whole = decode_rgb(data, "a.jpg")
        for cut in (3, 4, 5, 7, 12, 40, len(data) // 3, len(data) // 2, len(data) - 200):
            for part in (data[:-cut], data[:-cut] + bytes(max(cut, 64))):
                try:
                    pixels = decode_rgb(part, "a.jpg")
                except InputError as error:
                    assert "truncated" in str(error) or "not a readable image" in str(error)
                else:  # the bits that fill up the last byte of a scan were missing
                    accepted += 1
                    np.testing.assert_array_equal(pixels, whole)
                    assert cut < 8
    assert accepted < 9


@pytest.mark.parametrize("part", [0.4, 0.9])
@pytest.mark.parametrize("trailer", [b"", b"appended by a camera"])
def test_an_end_marker_behind_a_part_of_a_jpeg_does_not_hide_the_grey_half(
    part: float, trailer: bytes
) -> None:
    data = _encoded("jpeg", Image.fromarray(_picture(90, 120, 2)))
    cut = data[: int(part * len(data))] + END + trailer
    assert (cv2.imdecode(np.frombuffer(cut, np.uint8), cv2.IMREAD_COLOR)[-1, -1] == 128).all()
    with pytest.raises(InputError, match=r"a\.jpg: the image is truncated; replace or remove it"):
        decode_rgb(cut, "a.jpg")
    with pytest.raises(InputError, match="truncated"):
        decode_scaled(cut, "a.jpg", (90, 120), (30, 30))


def test_a_whole_picture_may_end_in_grey() -> None:
    grey = _encoded("jpeg", Image.new("RGB", (40, 30), (128, 128, 128)))
    assert (decode_rgb(grey, "a.jpg") == 128).all()


def test_missing_scans_of_a_progressive_jpeg_are_missing_pixels() -> None:
    data = _encoded("jpeg", Image.fromarray(_picture(60, 80, 1)), progressive=True)
    scans = [n for n in range(len(data) - 1) if data[n : n + 2] == b"\xff\xda"]
    assert has_all_pixels(data[:-2])
    for begin in scans[1:]:  # a decoder takes each of these parts for a whole file of lower quality
        assert not has_all_pixels(data[:begin])


OTHERS: dict[str, dict[str, Any]] = {
    "png": {}, "webp": {}, "bmp": {}, "gif": {}, "ppm": {}, "jpeg2000": {}, "tiff": {},
    "tiff lzw": {"compression": "tiff_lzw"}, "tiff deflate": {"compression": "tiff_adobe_deflate"},
    "webp lossless": {"lossless": True}, "avif": {},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", OTHERS)
def test_a_truncated_file_of_another_format_is_whole_or_refused(kind: str) -> None:
    if kind == "avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    data = _encoded(kind.split()[0], Image.fromarray(_picture(60, 80, 1)), **OTHERS[kind])
    whole = decode_rgb(data, "a.img")
    refused = 0
    for cut in (1, 2, 8, 12, 20, 60, len(data) // 3, len(data) // 2, len(data) - 40):
        try:
            np.testing.assert_array_equal(decode_rgb(data[:-cut], "a.img"), whole)
        except InputError as error:
            assert "truncated" in str(error) or "not a readable image" in str(error)
            refused += 1
    assert refused >= 6
