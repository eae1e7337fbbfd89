"""Data sets written as COCO and YOLO are read with the same labels."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import labelled_sets as sets
from tests.support.labelled_sets import WRITERS, put
from tests.support.tiny_data import annotation, coco_document, image, write_coco, write_image, write_yolo
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.annotations.source import DataSource
from yolo_lightning.data.annotations.write import write_coco as to_coco
from yolo_lightning.data.annotations.write import write_yolo as to_yolo
from yolo_lightning.errors import InputError


def indices(root: Path) -> dict[str, DatasetIndex]:
    source = DataSource(root)
    return {split: source.read(split) for split in source.splits()}


def same(a: DatasetIndex, b: DatasetIndex, tolerance_px: float) -> None:
    """Two indices have the same images, classes and boxes."""
    assert a.class_names == b.class_names
    assert [a.path(i).read_bytes() for i in range(len(a))] == [b.path(i).read_bytes() for i in range(len(b))]
    for name in ("sizes", "offsets", "classes", "trainable"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
    np.testing.assert_allclose(a.boxes, b.boxes, rtol=0, atol=tolerance_px)


def boxes_of(index: DatasetIndex) -> dict[bytes, Any]:
    """The boxes of each picture, by its content."""
    rows = (index.boxes[index.rows(i)].round(3).tolist() for i in range(len(index)))
    return {Path(path).read_bytes(): boxes for path, boxes in zip(index.paths(), rows, strict=True)}


@pytest.mark.parametrize("layout", WRITERS)
def test_every_format_comes_back(tmp_path: Path, layout: str) -> None:
    WRITERS[layout](tmp_path / "in")
    written = indices(tmp_path / "in")
    to_coco(written, tmp_path / "coco", copies=False)
    assert to_yolo(written, tmp_path / "yolo", copies=False) == {"train": {}}
    for name, tolerance in (("coco", 0), ("yolo", 1e-3)):
        read = indices(tmp_path / name)
        assert read.keys() == written.keys() and read["train"].layout == name.upper()
        same(written["train"], read["train"], tolerance)


@pytest.mark.parametrize("seed", range(4))
def test_random_boxes_come_back(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    document: dict[str, Any] = {
        "images": [image(7 * n + 3, f"{n % 2}/{n}.png", 97, 131) for n in range(5)],
        "categories": [{"id": 9, "name": "no"}, {"id": 4, "name": "blue: disc"}, {"id": 70, "name": "007"}],
        "annotations": [],
    }
    for n in range(40):
        x, y = rng.uniform(0, 90), rng.uniform(0, 60)
        box = [x, y, rng.uniform(0.2, 130 - x), rng.uniform(0.2, 96 - y)]
        entry = annotation(n, 7 * int(rng.integers(5)) + 3, int(rng.choice([9, 4, 70])), box)
        document["annotations"].append({**entry, "area": rng.uniform(1, 99)})
    for split in ("train", "val"):
        write_coco(tmp_path / "in", document, split)
    written = indices(tmp_path / "in")
    to_coco(written, tmp_path / "coco", copies=True)
    to_yolo(written, tmp_path / "yolo", copies=True)
    for split in ("train", "val"):
        exact = DataSource(tmp_path / "coco").read(split)  # type: ignore[arg-type]
        same(written[split], exact, 0)
        for name in ("image_ids", "category_ids", "areas", "crowd"):
            np.testing.assert_array_equal(getattr(written[split], name), getattr(exact, name), name)
        same(written[split], DataSource(tmp_path / "yolo").read(split), 1e-3)  # type: ignore[arg-type]


def test_coco_keeps_what_yolo_cannot_hold(tmp_path: Path) -> None:
    write_coco(tmp_path / "in", coco_document())
    written = indices(tmp_path / "in")
    to_coco(written, tmp_path / "coco", copies=False)
    read = DataSource(tmp_path / "coco").read("train")
    same(written["train"], read, 0)
    assert read.crowd.sum() == 1 and read.areas.tolist() == written["train"].areas.tolist()
    cut = to_yolo(written, tmp_path / "yolo", copies=False)["train"]
    assert list(cut.values()) == [1, 1, 1]
    read = DataSource(tmp_path / "yolo").read("train")
    for i in range(len(read)):
        np.testing.assert_allclose(read.labels(i), written["train"].labels(i), atol=1e-3)


def test_images_of_one_name_do_not_collide(tmp_path: Path) -> None:
    names = ["one/a.png", "two/a.png", "two/a.jpg", "two/a_png.png", ".three/@b/a.png"]
    document = coco_document() | {"images": [image(n, name) for n, name in enumerate(names)]}
    document["annotations"] = [annotation(n, n, 5, [n, 1, 10, 10]) for n in range(len(names))]
    write_coco(tmp_path / "in", document)
    written = indices(tmp_path / "in")
    to_coco(written, tmp_path / "coco", copies=False)
    to_yolo(written, tmp_path / "yolo", copies=False)
    for name in ("coco", "yolo"):
        read = DataSource(tmp_path / name).read("train")
        assert boxes_of(read) == boxes_of(written["train"])


def test_images_are_linked_unless_they_are_to_be_copied(tmp_path: Path) -> None:
    sets.write_voc(tmp_path / "in")
    (tmp_path / "in/a.png").rename(tmp_path / "in/real.bin")
    (tmp_path / "in/a.png").symlink_to("real.bin")
    written = indices(tmp_path / "in")
    to_coco(written, tmp_path / "linked", copies=False)
    to_coco(written, tmp_path / "copied", copies=True)
    for name in ("a.png", "b.png"):
        linked, copied = (tmp_path / folder / "images/train" / name for folder in ("linked", "copied"))
        assert linked.samefile(tmp_path / "in" / name) and not linked.is_symlink()
        assert not copied.samefile(linked) and copied.read_bytes() == linked.read_bytes()


@pytest.mark.parametrize("write", [to_coco, to_yolo])
def test_what_is_unfinished_is_no_data_set(
    tmp_path: Path, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_yolo(tmp_path / "in", {"a": sets.ROW, "b": sets.ROW}, val="images/train")
    written = indices(tmp_path / "in")
    calls = iter(range(3))

    def link(source: str, target: str) -> None:
        if next(calls) == 2:  # the first image of the second split
            raise KeyboardInterrupt
        shutil.copyfile(source, target)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(KeyboardInterrupt):
        write(written, tmp_path / "out", copies=False)
    with pytest.raises(InputError, match=r"no data set found|without the names of the classes"):
        DataSource(tmp_path / "out").read("train")


def test_yolo_refuses_splits_of_other_classes(tmp_path: Path) -> None:
    for split, name in (("train", "disc"), ("test", "square")):
        document = coco_document() | {"categories": [{"id": n, "name": f"{name} {n}"} for n in (5, 90)]}
        write_coco(tmp_path / "in", document, split)
    written = indices(tmp_path / "in")
    with pytest.raises(
        InputError, match=r"instances_test\.json: its classes are not those of the other splits"
    ):
        to_yolo(written, tmp_path / "yolo", copies=False)
    to_coco(written, tmp_path / "coco", copies=False)
    assert DataSource(tmp_path / "coco").read("test").class_names == written["test"].class_names


def test_yolo_refuses_images_that_it_would_turn(tmp_path: Path) -> None:
    write_image(tmp_path / "in/images/train/a.jpg", 48, 64)
    turned = Image.Exif()
    turned[0x0112] = 6
    path = tmp_path / "in/images/train/a.jpg"
    with Image.open(path) as opened:
        opened.save(path, exif=turned)
    document = {"images": [image(1, "a.jpg", 48, 64)], "categories": [{"id": 1, "name": "disc"}],
                "annotations": [annotation(1, 1, 1, [16, 12, 16, 12])]}  # fmt: skip
    put(tmp_path / "in/annotations/instances_train.json", json.dumps(document))
    written = indices(tmp_path / "in")
    with pytest.raises(InputError, match=r"a\.jpg: is annotated as it is stored.*--to coco"):
        to_yolo(written, tmp_path / "yolo", copies=False)
    assert not (tmp_path / "yolo").exists()
    to_coco(written, tmp_path / "coco", copies=False)
    same(written["train"], DataSource(tmp_path / "coco").read("train"), 0)
