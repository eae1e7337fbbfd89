from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from benchmarks.contenders.memory_index import index_bytes
from benchmarks.contenders.memory_index import measure as measure_index
from benchmarks.contenders.memory_workers import measure as measure_workers
from benchmarks.contenders.metric_agreement import measure as measure_agreement
from benchmarks.contenders.metric_speed import measure as measure_metric
from benchmarks.datasets import TOY, copy_bccd, make_large_json, make_many_small, make_set
from benchmarks.pictures import encode_jpeg, make_picture
from benchmarks.plan import Plan
from yolo_lightning.data.annotations.coco import CocoReader
from yolo_lightning.data.annotations.source import DataSource

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def toy_plan(tmp_path: Path, **more: Any) -> Plan:
    return Plan(work=tmp_path / "work", toy=True, **more)


def test_picture_has_the_shape_and_depends_on_the_generator_alone() -> None:
    first, again, other = (make_picture(48, 64, np.random.default_rng(seed), 5.0) for seed in (1, 1, 2))
    assert first.shape == (48, 64, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("target", [20_000, 60_000])
def test_jpeg_has_nearly_the_size_that_was_asked_for(target: int) -> None:
    picture = make_picture(240, 320, np.random.default_rng(0), 6.0)
    encoded = encode_jpeg(picture, target)
    assert len(encoded) == pytest.approx(target, rel=0.1)
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None and decoded.shape == picture.shape


def test_set_is_the_same_read_as_coco_and_as_yolo(tmp_path: Path) -> None:
    root = make_set(toy_plan(tmp_path), TOY)
    coco = DataSource(root=root, annotations={}, images={}).read("train")
    yolo = DataSource(root=root / "data.yaml", annotations={}, images={}).read("train")
    assert len(coco) == len(yolo) == TOY.images
    assert np.array_equal(coco.classes, yolo.classes)
    assert np.allclose(coco.boxes, yolo.boxes, atol=1e-3)
    sides = {max(cv2.imread(str(coco.path(i))).shape) for i in range(len(coco))}  # type: ignore[union-attr]
    assert sides == {TOY.long_side}


def test_set_is_made_once_and_never_by_halves(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path)
    root = make_set(plan, TOY)
    before = (root / "data.yaml").stat().st_mtime_ns
    assert make_set(plan, TOY) == root
    assert (root / "data.yaml").stat().st_mtime_ns == before
    assert [path.name for path in plan.data.iterdir()] == [root.name]


def test_bccd_is_copied_with_absolute_paths(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "images" / "train").mkdir(parents=True)
    (source / "images" / "train" / "a.jpg").write_bytes(b"x")
    (source / "data.yaml").write_text("path: .\ntrain: images/train\nnames: {0: RBC, 1: WBC}\n")
    root = copy_bccd(toy_plan(tmp_path, bccd=source))
    content = yaml.safe_load((root / "data.yaml").read_text())
    assert content["path"] == str(root) and content["names"] == ["RBC", "WBC"]
    assert (root / "images" / "train" / "a.jpg").read_bytes() == b"x"


def test_index_is_weighed_by_all_that_grows_with_it(tmp_path: Path) -> None:
    root = make_large_json(toy_plan(tmp_path), 10, 40)
    index = CocoReader(root / "annotations" / "instances_train.json", "train", root=root).read()
    # an image: id 8, size 8, offset 8, offset of its path 8; a box: class 8, box 16, area 4, crowd 1,
    # trainable 1; one more row of both offsets, and the ids of 80 categories
    paths = sum(len(str(index.path(i))) for i in range(10))
    assert index_bytes(index) == 10 * 32 + 40 * 30 + 16 + 80 * 8 + paths


@linux_only
def test_index_is_measured(tmp_path: Path) -> None:
    measured = measure_index(make_large_json(toy_plan(tmp_path), 10, 40))
    assert (measured["images"], measured["boxes"]) == (10, 40)
    assert measured["peak_growth_while_reading_mb"] >= 0


@linux_only
def test_workers_are_measured(tmp_path: Path) -> None:
    root = make_many_small(toy_plan(tmp_path), 24, 32)
    measured = measure_workers(str(root), size=32, batch=4, epochs=2)
    assert measured["workers"] == 2 and measured["images_loaded"] == 48
    memory = [*measured["after_first_epoch_mb"], *measured["after_last_epoch_mb"]]
    assert all(0 < m["private"] < m["resident"] for m in memory)
    growth = [
        100 * (b["resident"] / a["resident"] - 1)
        for a, b in zip(measured["after_first_epoch_mb"], measured["after_last_epoch_mb"], strict=True)
    ]
    assert measured["value"] == max(growth)


@linux_only
def test_metric_is_measured() -> None:
    measured = measure_metric(20, 30, 3)
    assert measured["value"] >= measured["compute_seconds"] > 0
    assert 0.05 < measured["map"] < 0.95  # neither nothing nor everything is found


def test_metric_is_held_against_pycocotools() -> None:
    measured = measure_agreement(20, 30, 3)
    assert measured["value"] < 1e-6
    assert measured["ours"].keys() == measured["pycocotools"].keys()
    assert 0.05 < measured["pycocotools"]["map"] < 0.95
