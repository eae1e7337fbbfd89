from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.support.tiny_data import annotation, image, write_coco, write_image, write_yolo
from yolo_lightning.data.annotations.index import FloatArray, join
from yolo_lightning.data.annotations.outlines import Points
from yolo_lightning.data.images.copy_paste import CopyPaste
from yolo_lightning.data.images.decode import Pixels
from yolo_lightning.data.module import DetectionDataModule
from yolo_lightning.errors import InputError

WIDTH = 120
NONE = np.empty((0, 2), np.float32)


def scene(seed: int) -> tuple[Pixels, FloatArray, list[Points]]:
    """A picture of 80 x 120 px with eight objects: triangles, some of two parts, and two boxes."""
    random = np.random.default_rng(seed)
    labels, outlines = [], []
    for n in range(8):
        x, y = random.uniform((0, 0), (90, 60)).astype(np.float32)
        parts = [np.array([(x, y), (x + 20, y + 3), (x + 9, y + 16)], np.float32)]
        if n % 3 == 0:
            parts += [np.full((1, 2), np.nan, np.float32), parts[0] + np.float32(6)]
        points = np.concatenate(parts)
        labels.append((n, *np.nanmin(points, axis=0), *np.nanmax(points, axis=0)))
        outlines.append(NONE if n in (2, 5) else points)
    return random.integers(0, 256, (80, WIDTH, 3), dtype=np.uint8), np.array(labels, np.float32), outlines


def classic(
    picture: Pixels, labels: FloatArray, outlines: list[Points], share: float, order: list[int]
) -> tuple[Pixels, list[list[float]]]:
    """Copy-paste object by object and pixel by pixel, the objects tried in the given order."""
    result, present = picture.copy(), labels.tolist()
    for n in order[: round(share * len(order))]:
        label, x1, y1, x2, y2 = labels[n].tolist()
        box = (WIDTH - x2, y1, WIDTH - x1, y2)
        shares = []
        for _, a1, b1, a2, b2 in present:
            across, down = min(box[2], a2) - max(box[0], a1), min(box[3], b2) - max(box[1], b1)
            shares.append(max(across, 0) * max(down, 0) / ((a2 - a1) * (b2 - b1)))
        if max(shares) < 0.3:
            present.append([label, *box])
            parts = np.split(outlines[n], np.flatnonzero(np.isnan(outlines[n][:, 0])))
            for part in parts:
                mask = np.zeros(picture.shape[:2], np.uint8)
                cv2.drawContours(mask, [part[~np.isnan(part[:, 0])].astype(np.int32)], -1, (1,), cv2.FILLED)
                for y, x in np.argwhere(mask):
                    result[y, WIDTH - 1 - x] = picture[y, x]
    return result, present[len(labels) :]


@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_it_pastes_what_the_classic_code_pastes(seed: int, share: float) -> None:
    picture, labels, outlines = scene(seed)
    order = np.random.default_rng((seed, 2, 7, 1)).permutation([0, 1, 3, 4, 6, 7]).tolist()
    expected, added = classic(picture, labels, outlines, share, order)
    found = picture.copy()
    pasted = CopyPaste(seed, share).apply(found, labels, outlines, epoch=2, index=7)
    np.testing.assert_allclose(pasted, np.reshape(added, (-1, 5)), atol=1e-4)
    assert np.array_equal(found, expected)
    assert bool(added) == (not np.array_equal(found, picture))


def test_epochs_and_images_paste_other_objects() -> None:
    picture, labels, outlines = scene(1)
    pasted = [
        CopyPaste(0, 0.5).apply(picture.copy(), labels, outlines, *place)
        for place in ((0, 0), (0, 0), *((epoch, index) for epoch in range(3) for index in range(1, 4)))
    ]
    assert np.array_equal(pasted[0], pasted[1])
    assert len({tuple(sorted(labels[:, 0])) for labels in pasted}) > 3


def write_polygons(root: Path) -> None:
    """Eight images with a polygon on the left and a box on the right; one image has 16 polygons."""
    left = "0 0.1 0.2 0.3 0.25 0.2 0.6\n"
    rows = "".join(f"1 0.02 {y} 0.1 {y} 0.06 {y + 0.04}\n" for y in np.arange(16) / 17)
    write_yolo(root, {f"{i}": left + "1 0.8 0.9 0.1 0.1\n" for i in range(8)} | {"full": rows})
    write_yolo(root, {"a": "0 0.5 0.5 0.2 0.2\n"}, split="val")


@pytest.mark.parametrize(("cache", "workers"), [("none", 0), ("none", 1), ("ram", 0), ("device", 0)])
def test_the_loader_pastes_in_each_epoch(tmp_path: Path, cache: Any, workers: int) -> None:
    write_polygons(tmp_path)
    options: dict[str, Any] = {"image_size": 64, "batch_size": 3, "num_workers": workers, "cache": cache}
    loaders = []
    modules = [DetectionDataModule(root=str(tmp_path), **options, copy_paste=share) for share in (1.0, 0.0)]
    for module in modules:
        module.setup("fit")
        loaders.append(module.train_dataloader())
    index = modules[0].index("train")
    for epoch in range(2):
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        for found, raw in zip(*loaders, strict=True):
            for row, position in enumerate(found.index.tolist()):
                full = index.path(position).stem == "full"
                before, after = int(raw.count[row]), int(found.count[row])
                assert (before, after) == ((16, 32) if full else (2, 3))
                labels, added = found.targets[row, :before], found.targets[row, before:after]
                assert np.array_equal(labels, raw.targets[row, :before])
                gain, pad = found.letterbox[row, 0].item(), found.letterbox[row, 2].item()
                width = int(found.original_sizes[row, 1]) * gain
                mirrored = 2 * pad + width - labels[:, [3, 1]]
                expected = [tuple(xs) for xs in mirrored.tolist()]
                assert all(min(abs(x1 - a) + abs(x2 - b) for a, b in expected) < 1e-3
                           for x1, x2 in added[:, [1, 3]].tolist())  # fmt: skip
                changed = (found.images[row] != raw.images[row]).any(dim=0)  # (S, S)
                assert changed.any() and not changed[:, :32].any()  # the objects lie on the left
    loaders[0].sampler.resume(1, seen=3)
    (earlier,) = loaders[0].earlier(1)
    loaders[0].sampler.resume(1, seen=0)
    first = next(iter(loaders[0]))
    assert np.array_equal(earlier.images, first.images) and np.array_equal(earlier.targets, first.targets)
    for module in modules:
        module.teardown("fit")


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_outlines_come_from_coco_and_stay_with_their_labels(tmp_path: Path, fraction: float) -> None:
    """After the cache of the index, a choice of classes, and of images."""
    places = [(3.0 * i, 2.0 * i) for i in range(6)]
    document = {
        "images": [image(i, f"{i}.png") for i in range(6)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            annotation(
                2 * i + is_dog, i, 1 + is_dog, [x, y, 10, 10 + is_dog],
                segmentation=[[x, y, x + 10, y, x + 10, y + 10], [x, y, x + 2, y, x, y + 3]][: 1 + is_dog],
            )
            for i, (x, y) in reversed([*enumerate(places)])
            for is_dog in (1, 0)
        ],
    }  # fmt: skip
    odd = ({"counts": [0, 2400], "size": [40, 60]}, [[0, 0, float("nan"), 1, 2, 2]], [[1, "a"]], [], 5)
    document["annotations"] += [
        annotation(90 + n, 0, 2, [30 + n, 5, 9, 9], segmentation=what) for n, what in enumerate(odd)
    ]
    write_coco(tmp_path, document)
    options: dict[str, Any] = {"root": str(tmp_path), "classes": ["dog"], "fraction": fraction}
    options |= {"copy_paste": 0.5, "cache": "disk"}
    for is_cached in (False, True):
        index = DetectionDataModule(**options).index("train")
        assert index.from_cache == is_cached and len(index) == 6 * fraction
        for i in range(len(index)):
            x, y = places[int(index.path(i).stem)]
            first, *others = index.outlines_of(i)
            expected = [
                (x, y),
                (x + 10, y),
                (x + 10, y + 10),
                (np.nan, np.nan),
                (x, y),
                (x + 2, y),
                (x, y + 3),
            ]
            np.testing.assert_array_equal(first, np.array(expected, np.float32))
            assert len(others) == (5 if index.path(i).stem == "0" else 0) and not any(map(len, others))


def test_a_polygon_of_yolo_is_in_px_of_its_image(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.2\n0 0.1 0.2 0.5 0.2 0.5 0.6\n", "b": "0 0 0 1 0 1 1\n"})
    write_image(tmp_path / "images/train/b.png", height=100, width=200)
    index = DetectionDataModule(root=str(tmp_path), copy_paste=0.1).index("train")
    box, polygon = index.outlines_of(0)
    height, width = index.sizes[0].tolist()
    assert not len(box)
    expected = np.array([(0.1, 0.2), (0.5, 0.2), (0.5, 0.6)]) * (width, height)
    np.testing.assert_allclose(polygon, expected, rtol=1e-6)
    assert polygon.dtype == np.float32
    assert index.outlines_of(1)[0].max() == index.sizes[1].max()


def test_a_set_without_outlines_is_refused(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.2\n"})
    write_yolo(tmp_path, {"b": "0 0.1 0.2 0.5 0.2 0.5 0.6\n"}, split="val")
    data = DetectionDataModule(root=str(tmp_path), copy_paste=0.1, cache="none")
    with pytest.raises(
        InputError, match=r"data\.yaml: no label of the train split has an outline that data\.co"
    ):
        data.setup("fit")
    with pytest.raises(InputError, match=r"data\.copy_paste 1\.5 is no share; use 0 to 1"):
        DetectionDataModule(root=str(tmp_path), copy_paste=1.5)


def test_a_list_of_points_is_a_polygon_and_joined_splits_keep_theirs(tmp_path: Path) -> None:
    nested = [[[2, 3], [8, 3], [8, 9]]]
    for split, outline in (("train", nested), ("val", [[1, 1, 4, 1, 4, 4]])):
        write_coco(
            tmp_path,
            {
                "images": [image(1, f"{split}.png")],
                "categories": [{"id": 1, "name": "cat"}],
                "annotations": [annotation(1, 1, 1, [2, 3, 6, 6], segmentation=outline)],
            },
            split,
        )
    data = DetectionDataModule(root=str(tmp_path), copy_paste=0.1)
    both = join(data.index("train"), data.index("val"))
    assert both.outlines_of(0)[0].tolist() == nested[0]
    assert both.outlines_of(1)[0].tolist() == [[1, 1], [4, 1], [4, 4]]
