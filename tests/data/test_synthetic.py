from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from yolo_lightning.data import synthetic
from yolo_lightning.data.synthetic import CLASS_NAMES, MANIFEST, draw_picture, make_dataset
from yolo_lightning.errors import InputError

SMALL = {"train_images": 40, "val_images": 12, "image_size": 128}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("synthetic") / "shapes", **SMALL)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def document(root: Path, split: str) -> dict[str, Any]:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize(("split", "count"), [("train", 40), ("val", 12)])
def test_pictures_and_annotations_agree(root: Path, split: str, count: int) -> None:
    coco = document(root, split)
    assert [category["name"] for category in coco["categories"]] == list(CLASS_NAMES)
    assert len(coco["images"]) == count
    assert len(list((root / "images" / split).iterdir())) == count
    sizes = {}
    for image in coco["images"]:
        picture = cv2.imread(str(root / "images" / split / image["file_name"]))
        assert picture is not None
        assert picture.shape == (image["height"], image["width"], 3)
        sizes[image["id"]] = (image["width"], image["height"])
    assert len({a["id"] for a in coco["annotations"]}) == len(coco["annotations"])
    for annotation in coco["annotations"]:
        x, y, w, h = annotation["bbox"]
        width, height = sizes[annotation["image_id"]]
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
        assert 0 < annotation["area"] <= w * h
        assert annotation["iscrowd"] == 0
        assert 1 <= annotation["category_id"] <= len(CLASS_NAMES)


def test_pycocotools_reads_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = COCO(str(root / "annotations" / "instances_train.json"))
    capsys.readouterr()
    assert len(coco.getImgIds()) == 40
    assert len(coco.getAnnIds()) == len(document(root, "train")["annotations"])


def test_the_set_has_variety(root: Path) -> None:
    coco = document(root, "train")
    shapes = Counter((image["width"], image["height"]) for image in coco["images"])
    assert set(shapes) == {(128, 128), (128, 96), (96, 128)}
    by_image = Counter(a["image_id"] for a in coco["annotations"])
    assert len(by_image) < 40  # some pictures are empty
    assert max(by_image.values()) >= 4
    assert {a["category_id"] for a in coco["annotations"]} == set(range(1, len(CLASS_NAMES) + 1))
    sides = [max(a["bbox"][2:]) / 128 for a in coco["annotations"]]
    assert min(sides) < 0.16
    assert max(sides) > 0.35


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(root: Path, tmp_path: Path) -> None:
    again = make_dataset(tmp_path / "again", **SMALL)
    assert files(again) == files(root)
    other = make_dataset(tmp_path / "other", **SMALL, seed=1)
    assert files(other)["images/train/000001.jpg"] != files(root)["images/train/000001.jpg"]


def test_a_picture_depends_neither_on_the_number_of_pictures_nor_on_the_other_split(
    root: Path, tmp_path: Path
) -> None:
    fewer = make_dataset(tmp_path / "fewer", train_images=3, val_images=1, image_size=128)
    for name in ("images/train/000003.jpg", "images/val/000001.jpg"):
        assert (fewer / name).read_bytes() == (root / name).read_bytes()
    assert files(root)["images/train/000001.jpg"] != files(root)["images/val/000001.jpg"]


def test_boxes_are_the_extent_of_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a flat background, with one flat colour a shape, the visible pixels can be read off the picture.
    full_areas: list[int] = []

    def flat_background(rng: np.random.Generator, height: int, width: int) -> Any:
        return np.full((height, width, 3), 250, np.float32)

    def flat_paint(rng: np.random.Generator, canvas: Any, cover: Any) -> None:
        full_areas.append(int((cover >= 0.5).sum()))
        canvas[cover >= 0.5] = 35 * len(full_areas)

    monkeypatch.setattr(synthetic, "_background", flat_background)
    monkeypatch.setattr(synthetic, "_paint", flat_paint)
    monkeypatch.setattr(synthetic, "_GRAIN", 0)
    partly_hidden = 0
    for seed in range(30):
        full_areas.clear()
        picture, shapes = draw_picture(np.random.default_rng(seed), 160)
        assert len(shapes) == len(full_areas)
        level = picture[..., 0] / 35  # which shape, by order of painting
        for number, (shape, full_area) in enumerate(zip(shapes, full_areas, strict=True), start=1):
            visible = level == number
            rows, columns = np.nonzero(visible)
            x, y, w, h = shape["bbox"]
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x, y, x + w, y + h)
            assert shape["area"] == visible.sum()
            assert shape["area"] >= 0.6 * full_area
            partly_hidden += shape["area"] < full_area
    assert partly_hidden > 10


def test_a_complete_set_is_used_again(root: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert make_dataset(root, **SMALL) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_an_empty_folder_is_filled_and_nothing_else_is_left(tmp_path: Path) -> None:
    target = tmp_path / "new" / "shapes"
    target.mkdir(parents=True)
    make_dataset(target, train_images=1, val_images=1, image_size=64)
    assert sorted(p.name for p in target.iterdir()) == ["annotations", "images", MANIFEST]
    assert [p.name for p in target.parent.iterdir()] == ["shapes"]


def test_an_interrupted_making_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    target = tmp_path / "shapes"
    with monkeypatch.context() as patched:
        patched.setattr(synthetic, "draw_picture", stop)
        with pytest.raises(KeyboardInterrupt):
            make_dataset(target, train_images=1, val_images=1, image_size=64)
    assert not list(tmp_path.iterdir())
    assert make_dataset(target, train_images=1, val_images=1, image_size=64) == target


def test_a_set_that_another_process_finished_first_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "shapes"
    settings = {"train_images": 1, "val_images": 1, "image_size": 64}
    draw = synthetic.draw_picture
    started: list[bool] = []

    def draw_while_another_makes_it(*arguments: Any) -> Any:
        if not started:
            started.append(True)
            make_dataset(target, **settings)
        return draw(*arguments)

    monkeypatch.setattr(synthetic, "draw_picture", draw_while_another_makes_it)
    assert make_dataset(target, **settings) == target
    assert [p.name for p in tmp_path.iterdir()] == ["shapes"]


def test_what_is_there_is_never_overwritten(root: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "holiday.txt").write_text("mine")
    with pytest.raises(InputError, match=r"foreign is not empty .* name a new folder"):
        make_dataset(foreign, **SMALL)
    assert (foreign / "holiday.txt").read_text() == "mine"
    with pytest.raises(InputError, match="other settings"):
        make_dataset(root, **SMALL, seed=3)
    with pytest.raises(InputError, match="is a file"):
        make_dataset(foreign / "holiday.txt", **SMALL)


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"file cannot be written to .* name another folder"):
        make_dataset(tmp_path / "file" / "shapes", **SMALL)


def test_a_set_that_lost_pictures_is_refused(tmp_path: Path) -> None:
    settings = {"train_images": 2, "val_images": 1, "image_size": 64}
    made = make_dataset(tmp_path / "shapes", **settings)
    (made / "images" / "train" / "000002.jpg").unlink()
    with pytest.raises(InputError, match="lost files of its train split"):
        make_dataset(made, **settings)


@pytest.mark.parametrize(
    "wrong", [{"train_images": 0}, {"val_images": 0}, {"image_size": 32}, {"seed": -1}], ids=str
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        make_dataset(tmp_path / "shapes", **{**SMALL, **wrong})
    assert not list(tmp_path.iterdir())
