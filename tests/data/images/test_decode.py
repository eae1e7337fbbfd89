from __future__ import annotations

import io
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.support.tiny_data import write_image
from yolo_lightning.data.images.decode import draw, header_size, read_bytes, read_rgb
from yolo_lightning.errors import InputError


def _picture(height: int = 60, width: int = 80) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def _drawn(data: bytes, size: tuple[int, int], image_size: int, train: bool) -> np.ndarray:
    """The file on a square that was full of something else."""
    canvas = np.random.default_rng(1).integers(0, 256, (image_size, image_size, 3), dtype=np.uint8)
    draw(data, "a.img", size, (image_size, image_size), train, canvas)
    return canvas


def _png(picture: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "png", compress_level=1)
    return data.getvalue()


def _classic(image: np.ndarray, size: int, train: bool) -> np.ndarray:
    """Resize and pad as the classic loader does it for a square, written down step by step."""
    height, width = image.shape[:2]
    ratio = size / max(height, width)
    if ratio != 1:
        method = cv2.INTER_LINEAR if train or ratio > 1 else cv2.INTER_AREA
        image = cv2.resize(image, (math.ceil(width * ratio), math.ceil(height * ratio)), interpolation=method)
    dh, dw = (size - image.shape[0]) / 2, (size - image.shape[1]) / 2
    top, bottom, left, right = (round(d + e) for d in (dh, dw) for e in (-0.1, 0.1))
    return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114, 114, 114))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("height", "width"),
    [(480, 640), (333, 500), (427, 641), (101, 77), (50, 70), (64, 64), (320, 320), (321, 9)],
)
def test_letterbox_is_classic_to_the_pixel(height: int, width: int, train: bool) -> None:
    image = _picture(height, width)
    for size in (64, 320):
        ours = _drawn(_png(image), (height, width), size, train)
        np.testing.assert_array_equal(ours, _classic(image, size, train))


@pytest.mark.parametrize(
    ("canvas_size", "top", "left"), [((96, 64), 16, 0), ((64, 96), 0, 16), ((97, 71), 16, 3)]
)
def test_the_content_lies_in_the_middle_of_any_canvas(
    canvas_size: tuple[int, int], top: int, left: int
) -> None:
    picture = _picture(64, 64)
    canvas = np.zeros((*canvas_size, 3), np.uint8)
    draw(_png(picture), "a.png", (64, 64), (64, 64), False, canvas)
    np.testing.assert_array_equal(canvas[top : top + 64, left : left + 64], picture)
    canvas[top : top + 64, left : left + 64] = 114
    assert (canvas == 114).all()


def test_longer_side_never_overshoots() -> None:
    # 1281 * (416 / 1281) is 416.00000000000006 in binary, which the classic code rounds up to 417.
    picture = _picture(1281, 640)
    drawn = _drawn(_png(picture), (1281, 640), 416, True)
    expected = cv2.resize(picture, (208, 416), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(drawn[:, 104:312], expected)
    assert (drawn[:, :104] == 114).all() and (drawn[:, 312:] == 114).all()


def test_file_to_rgb(tmp_path: Path) -> None:
    picture = _picture()
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert header_size(tmp_path / "a.png") == (60, 80)
    pixels = _drawn(read_bytes(tmp_path / "a.png"), (60, 80), 80, train=False)
    np.testing.assert_array_equal(pixels[10:70], picture)
    assert (pixels[:10] == 114).all() and (pixels[70:] == 114).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_in_pixels_and_in_the_header(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    Image.fromarray(_picture()).save(path, exif=exif, quality=95)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert header_size(path) == upright.shape[:2]
    pixels = read_rgb(path, header_size(path))
    np.testing.assert_allclose(pixels.astype(int), upright, atol=6)  # two JPEG decoders


def test_annotations_of_the_unturned_pixels_get_those(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.jpg"
    Image.fromarray(_picture()).save(path, exif=exif, quality=95)
    assert read_rgb(path).shape == (80, 60, 3)
    stored = read_rgb(path, (60, 80))
    np.testing.assert_allclose(stored.astype(int), _picture(), atol=40)
    with pytest.raises(
        InputError, match=r"a\.jpg: the image is 60 x 80 px but its annotations say 10 x 20 px"
    ):
        read_rgb(path, (20, 10))


@pytest.mark.parametrize("kind", ["grey", "alpha", "16 bit", "palette", "grey jpeg"])
def test_other_kinds_of_images_become_three_channels_of_eight_bits(tmp_path: Path, kind: str) -> None:
    picture = _picture()
    grey = picture[..., :1]
    path = tmp_path / ("a.jpg" if kind == "grey jpeg" else "a.png")
    expected = grey.repeat(3, axis=2)
    if kind in ("grey", "grey jpeg"):
        Image.fromarray(grey[..., 0]).save(path, **({"quality": 100} if path.suffix == ".jpg" else {}))
    elif kind == "alpha":
        Image.fromarray(np.concatenate((picture, grey), axis=2)).save(path)
        expected = picture
    elif kind == "16 bit":
        cv2.imwrite(str(path), grey.astype(np.uint16) * 257)
    else:
        indexed = Image.fromarray(picture).convert("P")
        indexed.save(path)
        expected = np.asarray(indexed.convert("RGB"))
    pixels = read_rgb(path, header_size(path))
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.astype(int), expected, atol=2)


def _encoded(kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    Image.fromarray(_picture(200, 300)).save(data, kind, **options)  # type: ignore[arg-type]
    return data.getvalue()


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.97])
@pytest.mark.parametrize("kind", ["jpeg", "progressive", "thumbnail", "png", "webp"])
def test_truncated_images_are_refused(tmp_path: Path, kind: str, part: float) -> None:
    if kind == "thumbnail":  # a whole JPEG, end marker included, in the header
        small = _encoded("jpeg")[:60_000]
        header = b"\xff\xe1" + (len(small) + 8).to_bytes(2, "big") + b"Exif\0\0" + small
        whole = _encoded("jpeg")
        data = whole[:2] + header + whole[2:]
    else:
        data = _encoded("jpeg", progressive=True) if kind == "progressive" else _encoded(kind)
    path = tmp_path / "a.img"
    path.write_bytes(data)
    assert read_rgb(path).shape == (200, 300, 3)
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(InputError, match=r"a\.img: .*(truncated|not a readable image); replace or remove it"):
        read_rgb(path)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_data_behind_the_end_of_a_jpeg_is_no_truncation(tmp_path: Path, options: dict[str, bool]) -> None:
    (tmp_path / "a.jpg").write_bytes(_encoded("jpeg", **options) + b"appended by a camera")
    assert read_rgb(tmp_path / "a.jpg").shape == (200, 300, 3)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello")
    for read in (read_rgb, header_size):
        with pytest.raises(InputError, match=r"a\.jpg: not a readable image"):
            read(tmp_path / "a.jpg")
        with pytest.raises(InputError, match=r"none\.jpg"):
            read(tmp_path / "none.jpg")


def test_header_size(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 31, 47)
    assert header_size(tmp_path / "a.png") == (31, 47)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jpg: the image cannot be read \(No such file"):
        read_bytes(tmp_path / "none.jpg")
    (tmp_path / "a.jpg").write_bytes(b"\x00\xff")
    assert read_bytes(tmp_path / "a.jpg") == b"\x00\xff"
