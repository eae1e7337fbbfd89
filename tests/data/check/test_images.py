from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.support.faulty_data import plant_in_yolo
from tests.support.tiny_data import write_image
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.annotations.source import DataSource
from yolo_lightning.data.check import images
from yolo_lightning.data.check.images import estimate_seconds, examine_images


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    plant_in_yolo(tmp_path, 12, faults={}, suffix=".jpg")
    return DataSource(tmp_path).find_errors("train")


def damage(index: DatasetIndex, n: int, suffix: str = "") -> Path:
    path = index.path(n)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if not suffix else b"")
    return path


def test_broken_images_are_found_with_the_reason(index: DatasetIndex) -> None:
    truncated, empty = damage(index, 3), damage(index, 5, "all")
    index.path(7).unlink()
    write_image(index.path(9), 20, 30)
    cv2.imwrite(str(index.path(1)) + ".png", cv2.imread(str(index.path(1))))
    Path(f"{index.path(1)}.png").rename(index.path(1))
    facts, findings = examine_images(index, 600)
    assert [(f.kind, f.image, f.severity) for f in findings] == [
        ("wrong suffix", str(index.path(1)), "warning"),
        ("truncated image", str(truncated), "error"),
        ("empty image", str(empty), "error"),
        ("unreadable image", str(index.path(7)), "error"),
        ("image of another size", str(index.path(9)), "error"),
    ]
    assert facts["seen"].all() and len(set(facts["content"].tolist())) == 9  # 0 for errors


def test_sound_images_of_each_format_give_no_finding(tmp_path: Path) -> None:
    plant_in_yolo(tmp_path, 1, faults={})
    image = Image.fromarray(cv2.imread(str(tmp_path / "images/train/train0.png")))
    names = ("a.jpg", "b.jpeg", "c.JPG", "d.bmp", "e.tif", "f.tiff", "g.webp", "h.png")
    for n, name in enumerate(names):
        image.rotate(10 * n).save(tmp_path / "images/train" / name)
    facts, findings = examine_images(DataSource(tmp_path).find_errors("train"), 600)
    assert findings == [] and facts["seen"].sum() == 9


def test_the_second_time_nothing_is_decoded_but_what_has_changed(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(index, 3)
    first = examine_images(index, 600)
    decoded = []
    look = images._look
    monkeypatch.setattr(images, "_look", lambda path, size: decoded.append(path) or look(path, size))  # type: ignore[func-returns-value]
    second = examine_images(index, 600)
    assert decoded == [] and second[1] == first[1]
    np.testing.assert_array_equal(first[0], second[0])
    damage(index, 8)
    assert [f.image for f in examine_images(index, 600)[1]] == [str(index.path(3)), str(index.path(8))]
    assert decoded == [str(index.path(8))]
    assert len(list((index.root / ".yolo_lightning_cache").glob("*_check_*"))) == 1


def test_a_file_of_somebody_else_is_not_believed(index: DatasetIndex) -> None:
    damage(index, 3)
    examine_images(index, 600)
    (path,) = (index.root / ".yolo_lightning_cache").glob("*_check_*")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert len(examine_images(index, 600)[1]) == 1


def test_a_sample_is_decoded_where_all_would_take_too_long(index: DatasetIndex) -> None:
    cost = estimate_seconds(index.sizes)
    facts, (note,) = examine_images(index, cost / 3)
    assert np.flatnonzero(facts["seen"]).tolist() == [0, 3, 6, 9]
    assert note.is_note and note.what.startswith("8 of 12 images were not decoded")
    assert examine_images(index, cost / 3)[0]["seen"].sum() == 8  # every other of the 8 that are left


def test_the_cost_is_a_rule_of_sizes_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "usable_cores", lambda: 2)
    assert estimate_seconds(np.full((1000, 2), 1000, np.int32)) == pytest.approx(1000 * (0.001 + 0.01) / 2)


def test_nothing_is_kept_where_no_file_can_be(index: DatasetIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    (index.root / "file").write_text("no folder")
    monkeypatch.setenv("YOLO_LIGHTNING_CACHE", str(index.root / "file"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert examine_images(index, 600)[0]["seen"].all()
