"""Every format and kind of pixels gives one stated picture, which another decoder or the array confirms."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, features

from tests.support.tiny_data import image, write_coco
from yolo_lightning.data.annotations.coco import CocoReader
from yolo_lightning.data.annotations.index import IMAGE_SUFFIXES
from yolo_lightning.data.images.decode import decode_rgb, header_size, read_rgb
from yolo_lightning.errors import InputError

PICTURE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8), (0, 0), 2)
GREY = PICTURE[..., 0]
DEEP = np.random.default_rng(1).integers(0, 65536, (60, 80, 3), dtype=np.uint16)
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")


def encoded(kind: str, picture: Any = PICTURE, mode: str | None = None, **options: Any) -> bytes:
    data = io.BytesIO()
    made = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    (made.convert(mode) if mode else made).save(data, kind, **options)
    return data.getvalue()


def by_opencv(suffix: str, picture: np.ndarray) -> bytes:
    return bytes(cv2.imencode(suffix, picture)[1])


def three(channel: np.ndarray) -> np.ndarray:
    return np.repeat(channel[..., None], 3, axis=2)


ALPHA = np.dstack([PICTURE, GREY])
PALETTE = Image.fromarray(PICTURE).convert("P")
CODES = np.asarray(PALETTE.convert("RGB"))
BITS = Image.fromarray(GREY > 128)
CMYK = Image.fromarray(PICTURE).convert("CMYK")
KINDS: dict[str, tuple[bytes, np.ndarray, int]] = {
    # the file, the pixels that it must give, and the largest difference, of lossy formats
    **{f"{k} grey": (encoded(k, GREY), three(GREY), 0) for k in ("png", "bmp", "tiff", "gif", "ppm")},
    **{f"{k} 1 bit": (encoded(k, BITS), three(255 * (GREY > 128)), 0) for k in ("png", "bmp", "tiff", "ppm")},
    **{f"{k} palette": (encoded(k, PALETTE), CODES, 0) for k in ("png", "bmp", "tiff", "gif")},
    **{f"{k} alpha": (encoded(k, ALPHA), PICTURE, 0) for k in ("png", "jpeg2000")},
    "webp alpha": (encoded("webp", ALPHA, lossless=True, exact=True), PICTURE, 0),
    "png grey alpha": (encoded("png", np.dstack([GREY, GREY[::-1]])), three(GREY), 0),
    "png palette transparent": (encoded("png", PALETTE, transparency=bytes(range(256))), CODES, 0),
    "gif palette transparent": (encoded("gif", PALETTE, transparency=3), CODES, 0),
    "png one colour transparent": (encoded("png", transparency=tuple(PICTURE[0, 0].tolist())), PICTURE, 0),
    # libtiff blends with black
    "tiff alpha": (encoded("tiff", ALPHA), np.round(PICTURE * (GREY[..., None] / 255)), 1),
    "tiff opaque": (encoded("tiff", np.dstack([PICTURE, np.full_like(GREY, 255)])), PICTURE, 0),
    **{f"{s} 16 bit": (by_opencv(s, DEEP[..., ::-1]), DEEP >> 8, 0) for s in (".png", ".ppm")},
    "tiff 16 bit": (by_opencv(".tiff", DEEP[..., ::-1]), DEEP >> 8, 1),  # libtiff rounds
    **{f"{s} deep grey": (by_opencv(s, DEEP[..., 0]), three(DEEP[..., 0] >> 8), 0) for s in (".png", ".pgm")},
    "tiff deep grey": (encoded("tiff", DEEP[..., 0]), three(DEEP[..., 0] >> 8), 0),
    "jpeg grey": (encoded("jpeg", GREY, quality=100), three(GREY), 2),
    "jpeg cmyk": (encoded("jpeg", CMYK, quality=98), np.asarray(CMYK.convert("RGB")), 6),
    "tiff cmyk": (encoded("tiff", CMYK), np.asarray(CMYK.convert("RGB")), 1),
    "gif, two pictures": (
        encoded("gif", PALETTE, save_all=True, append_images=[BITS.convert("P")]), CODES, 0,
    ),
    "tiff, two pictures": (encoded("tiff", PICTURE, save_all=True, append_images=[BITS]), PICTURE, 0),
    "mpo, two pictures": (
        encoded("mpo", PICTURE, save_all=True, append_images=[BITS.convert("RGB")], quality=100), PICTURE, 8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_pixels_becomes_eight_bits_of_three_colours(kind: str) -> None:
    data, expected, tolerance = KINDS[kind]
    pixels = decode_rgb(data, "a.img")
    assert pixels.dtype == np.uint8 and pixels.shape == (60, 80, 3) and pixels.flags.c_contiguous
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance
    if not kind.startswith("gif"):  # what yolov5 reads, it reads the same
        read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(pixels, read[..., ::-1])


FLOATS = GREY.astype(np.float32)


@pytest.mark.parametrize(
    "data", [encoded("tiff", FLOATS), encoded("tiff", GREY.astype(np.int32)), by_opencv(".pfm", FLOATS)]
)
def test_pixels_of_32_bits_are_refused_by_their_header(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.tif: pixels of 32 bits .*; convert it to 8 or 16 bits"):
        header_size(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", pytest.param("avif", marks=needs_avif)])
def test_exif_orientation_is_applied_once_in_every_format(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpeg": {"quality": 98}, "webp": {"lossless": True}, "avif": {"quality": 98}}.get(kind, {})
    path = tmp_path / "a.img"
    path.write_bytes(encoded(kind, exif=exif, **options))
    with Image.open(path) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened).convert("RGB")).astype(int)
    assert header_size(path) == upright.shape[:2]
    np.testing.assert_allclose(read_rgb(path, upright.shape[:2]).astype(int), upright, atol=8)
    if orientation > 4 and kind in ("jpeg", "png", "webp"):  # labelled as it is stored
        np.testing.assert_allclose(read_rgb(path, (60, 80)).astype(int), PICTURE, atol=12)


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic(tmp_path: Path, orientation: int) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.heic"
    path.write_bytes(encoded("heif", quality=-1, chroma=444, exif=exif.tobytes()))
    upright = PICTURE if orientation == 1 else np.rot90(PICTURE, -1)
    assert header_size(path) == upright.shape[:2]
    np.testing.assert_allclose(read_rgb(path, upright.shape[:2]).astype(int), upright, atol=8)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"a\.heic: not a readable image"):
        read_rgb(path)


def test_what_needs_the_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    for brand in (b"heic", b"avif"):
        (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(100))
        with pytest.raises(InputError, match=r"a\.heic: HEIC .*; pip install 'yolo-lightning\[heic\]'"):
            header_size(tmp_path / "a.heic")


def test_a_data_set_may_have_every_suffix(tmp_path: Path) -> None:
    by_suffix = {
        ".jfif": "jpeg",
        ".jpe": "jpeg",
        ".jpg": "jpeg",
        ".dib": "bmp",
        ".tif": "tiff",
        ".jp2": "jpeg2000",
    }
    suffixes = sorted(IMAGE_SUFFIXES - {".heic", ".heif", *(() if features.check("avif") else (".avif",))})
    for split in ("train", "val"):
        names = [f"{n}{suffix}" for n, suffix in enumerate(suffixes)]
        entries = [image(n + 1, name, 60, 80) for n, name in enumerate(names)]
        categories = [{"id": 1, "name": "cat"}]
        write_coco(tmp_path, {"images": [], "categories": categories, "annotations": []}, split)
        folder = tmp_path / "images" / split
        folder.mkdir(parents=True, exist_ok=True)
        for name, suffix in zip(names, suffixes, strict=True):
            grey = suffix in (".pbm", ".pgm")
            kind = by_suffix.get(suffix, "ppm" if suffix[1] == "p" and suffix != ".png" else suffix[1:])
            (folder / name).write_bytes(encoded(kind, GREY if grey else PICTURE))
        document = {"images": entries, "categories": categories, "annotations": []}
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    index = CocoReader(tmp_path / "annotations" / "instances_train.json", "train").read()
    assert len(index) == len(suffixes)
    for i in range(len(index)):
        assert read_rgb(index.path(i), (60, 80)).shape == (60, 80, 3)
