from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from tests.support.processes import side_by_side
from yolo_lightning.evaluation.mean_average_precision import (
    CLASS_FIGURES,
    FIGURES,
    CocoMeanAveragePrecision,
    log_values,
)

MAX_DETECTIONS = [1, 10, 100, 300]


def pycocotools_figures(images: list[dict[str, Any]], num_classes: int) -> dict[str, np.ndarray]:
    """The same figures from pycocotools, an object a box; images hold ``id``, ``found`` and ``truth``."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in images:
        for label, x1, y1, x2, y2, area, crowd in image["truth"].astype(np.float64):
            annotations.append(
                {
                    "id": len(annotations) + 1,  # an id of 0 would read as "no match"
                    "image_id": image["id"],
                    "category_id": int(label),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
        for x1, y1, x2, y2, score, label in image["found"].astype(np.float64):
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": int(label),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": score,
                }
            )
    with redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": image["id"]} for image in images],
            "categories": [{"id": label, "name": str(label)} for label in range(num_classes)],
            "annotations": annotations,
        }
        truth.createIndex()
        # loadRes refuses an empty list
        found = truth.loadRes(results) if results else COCO()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.imgIds = [image["id"] for image in images]
        evaluation.params.maxDets = MAX_DETECTIONS
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 2]  # (10, 101, C, 4), at 100 detections
    recall = evaluation.eval["recall"][:, :, 0]  # (10, C, 4)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(values[values > -1].mean() if (values > -1).any() else -1.0)

    per_class = precision[..., 0].mean(axis=(0, 1))
    return {
        "map": mean(precision[..., 0]),
        "map_50": mean(precision[0, ..., 0]),
        "map_75": mean(precision[5, ..., 0]),
        "map_small": mean(precision[..., 1]),
        "map_medium": mean(precision[..., 2]),
        "map_large": mean(precision[..., 3]),
        "mar_100": mean(recall[..., 2]),
        "map_per_class": np.where(per_class > -1, per_class, np.nan),
    }


def random_images(rng: np.random.Generator, count: int, num_classes: int, most: int) -> list[dict[str, Any]]:
    """Images whose detections are annotations moved a little, with all that makes COCO's rules matter.

    Coordinates lie on a coarse grid and scores on few values, so that IoUs meet thresholds exactly and
    both tie; there are crowds, areas unlike the boxes', duplicates, empty boxes and empty images.
    """
    images = []
    for image_id in rng.permutation(10 * count)[:count]:
        side = float(rng.choice([40, 120, 400]))
        n, m = int(rng.integers(0, 9)), int(rng.integers(0, most + 1))
        if rng.random() < 0.15:
            n = 0
        if rng.random() < 0.15:
            m = 0
        corner = rng.integers(0, 10, (n, 2)) * side / 10
        size = rng.integers(0 if rng.random() < 0.2 else 1, 11, (n, 2)) * side / 10
        boxes = np.concatenate((corner, corner + size), axis=1)
        if n > 2 and rng.random() < 0.5:
            boxes[1] = boxes[0]
        area = size.prod(axis=1) * rng.choice([1.0, 0.7, 0.3], n)
        area[rng.random(n) < 0.2] = 1024.0  # the edge of two ranges, which belongs to both
        label = rng.integers(0, num_classes, n)
        truth = np.column_stack((label, boxes, area, rng.random(n) < 0.15))
        found = np.zeros((m, 6))
        found[:, :2] = rng.integers(0, 10, (m, 2)) * side / 10
        found[:, 2:4] = found[:, :2] + rng.integers(0, 11, (m, 2)) * side / 10
        found[:, 5] = rng.integers(0, num_classes, m)
        if n and m:
            copied = rng.random(m) < 0.7
            source = rng.integers(0, n, m)
            shift = rng.integers(-1, 2, (m, 4)) * side / 10
            shifted = np.concatenate(
                (
                    boxes[source, :2] + shift[:, :2],
                    np.maximum(boxes[source, :2], boxes[source, 2:]) + shift[:, 2:],
                ),
                1,
            )
            shifted[:, 2:] = np.maximum(shifted[:, 2:], shifted[:, :2])
            found[copied, :4] = shifted[copied]
            found[copied, 5] = label[source][copied]
        found[:, 4] = rng.integers(1, 12, m) / 16 if rng.random() < 0.5 else rng.random(m)
        images.append(
            {"id": int(image_id), "truth": truth.astype(np.float32), "found": found.astype(np.float32)}
        )
    return images


def padded(tables: list[np.ndarray], columns: int, extra: int = 0) -> tuple[Tensor, Tensor]:
    """Tables of different lengths as one padded tensor and its counts; padding is garbage on purpose."""
    capacity = max((len(table) for table in tables), default=0) + extra
    out = torch.full((len(tables), capacity, columns), -7.0)
    for row, table in zip(out, tables, strict=True):
        row[: len(table)] = torch.from_numpy(table)
    return out, torch.tensor([len(table) for table in tables], dtype=torch.int64)


def feed(metric: CocoMeanAveragePrecision, images: list[dict[str, Any]], batch: int = 4) -> None:
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        found, found_counts = padded([image["found"] for image in part], 6, extra=start % 3)
        truth, truth_counts = padded([image["truth"] for image in part], 7, extra=start % 2)
        ids = torch.tensor([image["id"] for image in part])
        metric.update(ids, found, found_counts, truth, truth_counts)


def assert_same(result: dict[str, Tensor], expected: dict[str, np.ndarray], tolerance: float = 1e-6) -> None:
    assert set(expected) <= set(result)
    for name, value in expected.items():
        np.testing.assert_allclose(result[name].numpy(), value, atol=tolerance, rtol=0, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 12), num_classes=st.integers(1, 4))
def test_equals_pycocotools(seed: int, count: int, num_classes: int) -> None:
    images = random_images(np.random.default_rng(seed), count, num_classes, most=14)
    metric = CocoMeanAveragePrecision(num_classes)
    feed(metric, images)
    assert_same(metric.compute(), pycocotools_figures(images, num_classes))


def test_equals_pycocotools_with_more_detections_than_count() -> None:
    # One class and up to 350 detections an image, so that the limits of 100 and 300 both cut.
    images = random_images(np.random.default_rng(5), 6, 1, most=350)
    assert max(len(image["found"]) for image in images) > 300
    metric = CocoMeanAveragePrecision(1)
    feed(metric, images)
    result = metric.compute()
    assert_same(result, pycocotools_figures(images, 1))


def test_equals_pycocotools_on_realistic_boxes() -> None:
    rng = np.random.default_rng(11)
    images = []
    for image_id in range(60):
        n = int(rng.integers(1, 12))
        low = rng.uniform(0, 400, (n, 2))
        boxes = np.concatenate((low, low + np.exp(rng.uniform(1.5, 5.5, (n, 2)))), axis=1)
        label = rng.integers(0, 7, n)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * rng.uniform(0.4, 1, n)
        source = rng.integers(0, n, 4 * n)
        size = np.tile(boxes[source, 2:] - boxes[source, :2], 2)
        found = boxes[source] + rng.normal(0, 0.08, (4 * n, 4)) * size
        score = rng.random(4 * n)
        found_label = np.where(rng.random(4 * n) < 0.8, label[source], rng.integers(0, 7, 4 * n))
        images.append(
            {
                "id": image_id,
                "truth": np.column_stack((label, boxes, area, rng.random(n) < 0.1)).astype(np.float32),
                "found": np.column_stack((found, score, found_label)).astype(np.float32),
            }
        )
    metric = CocoMeanAveragePrecision(7)
    feed(metric, images, batch=16)
    result = metric.compute()
    assert_same(result, pycocotools_figures(images, 7))
    assert 0.1 < result["map"] < 0.9  # a case in which there is something to disagree about


def test_a_hand_worked_case() -> None:
    # Class 0: two annotations; found: one exactly (0.9), one false (0.8), the other exactly (0.7).
    # Precision is 1 up to recall 0.5 (51 of the 101 levels) and 2/3 beyond (50 levels).
    truth = np.array([[0, 0, 0, 10, 10, 100, 0], [0, 20, 20, 30, 30, 100, 0]], np.float32)
    found = np.array([[0, 0, 10, 10, 0.9, 0], [50, 50, 60, 60, 0.8, 0], [20, 20, 30, 30, 0.7, 0]], np.float32)
    metric = CocoMeanAveragePrecision(2)
    feed(metric, [{"id": 3, "truth": truth, "found": found}])
    result = metric.compute()
    expected = (51 + 50 * 2 / 3) / 101
    for name in ("map", "map_50", "map_75", "map_small"):
        assert result[name].item() == pytest.approx(expected, abs=1e-6)
    assert result["map_large"] == -1  # nothing to find
    assert result["mar_100"] == 1
    assert result["map_per_class"][0].item() == pytest.approx(expected, abs=1e-6)
    assert result["map_per_class"][1].isnan()


@pytest.mark.parametrize("second_first", [False, True])
def test_of_equally_good_annotations_the_later_is_taken(second_first: bool) -> None:
    # The first detection has an IoU of 0.6 with both annotations, the second is one of them exactly.
    truth = np.array([[0, 0, 0, 10, 20, 200, 0], [0, 0, 10, 10, 30, 200, 0]], np.float32)
    found = np.array([[0, 5, 10, 25, 0.9, 0], [0, 0, 10, 20, 0.8, 0]], np.float32)
    images = [{"id": 1, "truth": truth[::-1].copy() if second_first else truth, "found": found}]
    metric = CocoMeanAveragePrecision(1)
    feed(metric, images)
    result = metric.compute()
    assert_same(result, pycocotools_figures(images, 1))
    assert (result["map_50"].item() > 0.99) != second_first


def test_nothing_at_all() -> None:
    metric = CocoMeanAveragePrecision(3)
    feed(metric, [{"id": 1, "truth": np.zeros((0, 7), np.float32), "found": np.zeros((0, 6), np.float32)}])
    result = metric.compute()
    per_class = {name for name in result if name.endswith("_per_class")}
    assert all(result[name] == -1 for name in result.keys() - per_class)
    assert all(result[name].isnan().all() for name in per_class)
    assert log_values(result, ("a", "b", "c")) == {}


def test_order_of_images_and_of_batches_does_not_matter() -> None:
    images = random_images(np.random.default_rng(2), 12, 3, most=14)
    results = []
    for order, batch in ((images, 4), (images[::-1], 5)):
        metric = CocoMeanAveragePrecision(3)
        feed(metric, order, batch)
        results.append(metric.compute())
    for name in results[0]:
        assert torch.equal(results[0][name].nan_to_num(-1), results[1][name].nan_to_num(-1)), name


def test_an_image_met_twice_counts_once() -> None:
    images = random_images(np.random.default_rng(4), 8, 2, most=14)
    metric = CocoMeanAveragePrecision(2)
    feed(metric, images + images[:3])
    assert_same(metric.compute(), pycocotools_figures(images, 2))


def test_a_class_out_of_range_is_refused() -> None:
    metric = CocoMeanAveragePrecision(2)
    found = np.array([[0, 0, 10, 10, 0.9, 2]], np.float32)
    feed(metric, [{"id": 1, "truth": np.zeros((0, 7), np.float32), "found": found}])
    with pytest.raises(ValueError, match="a detection has class 2, but there are 2 classes"):
        metric.compute()


def test_log_values_names_the_classes_that_have_annotations() -> None:
    truth = np.array([[1, 0, 0, 10, 10, 100, 0]], np.float32)
    found = np.array([[0, 0, 10, 10, 0.9, 1]], np.float32)
    metric = CocoMeanAveragePrecision(2)
    feed(metric, [{"id": 1, "truth": truth, "found": found}])
    values = log_values(metric.compute(), ("cat", "dog"))
    sizes = {"map_medium", "map_large"}  # of which there is no object
    of_dog = {f"{name}_class/dog" for name in CLASS_FIGURES}
    assert set(values) == set(FIGURES) - sizes | of_dog
    assert {name: values[name].item() for name in of_dog | {"map", "fitness"}} == pytest.approx(
        dict.fromkeys(of_dog | {"map", "fitness"}, 1.0)
    )


def _one_rank(rank: int, world: int, images: list[dict[str, Any]], folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
    )
    metric = CocoMeanAveragePrecision(3)
    # The last rank has no image the first time, the first rank none after the reset.
    for turn, ends in enumerate(((0, 7, 9, 9), (0, 0, 4, 9))):
        feed(metric, images[ends[rank] : ends[rank + 1]])
        torch.save(metric.compute(), f"{folder}/{turn}-{rank}.pt")
        assert metric.details is not None
        np.save(f"{folder}/{turn}-{rank}.npy", metric.details.confusion)
        metric.reset()
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # a rank without images never updated
def test_ranks_with_unequal_numbers_of_images_agree_with_one_process(tmp_path: Path) -> None:
    images = random_images(np.random.default_rng(8), 9, 3, most=14)
    side_by_side(_one_rank, 3, 3, images, str(tmp_path))
    expected = pycocotools_figures(images, 3)
    alone = CocoMeanAveragePrecision(3)
    feed(alone, images)
    alone.compute()
    assert alone.details is not None
    for name in (f"{turn}-{rank}" for turn in range(2) for rank in range(3)):
        assert_same(torch.load(tmp_path / f"{name}.pt"), expected)
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), alone.details.confusion)


def _counting(function: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def counted(*args: Any, **options: Any) -> Any:
        calls.append(function.__name__)
        return function(*args, **options)

    return counted


def _count_collectives(rank: int, images: list[dict[str, Any]], folder: str) -> None:
    distributed = torch.distributed
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    calls: list[str] = []
    for name in ("all_gather", "all_gather_object", "all_reduce", "barrier", "broadcast", "gather"):
        setattr(distributed, name, _counting(getattr(distributed, name), calls))
    metric = CocoMeanAveragePrecision(3)
    feed(metric, images[:5] if rank == 0 else images[5:])
    metric.compute()
    Path(folder, str(rank)).write_text("\n".join(calls))


def test_a_synchronisation_of_unequal_ranks_takes_few_collectives(tmp_path: Path) -> None:
    images = random_images(np.random.default_rng(8), 9, 3, most=14)
    side_by_side(_count_collectives, 2, images, str(tmp_path))
    for rank in range(2):
        assert 3 <= len((tmp_path / str(rank)).read_text().split()) <= 10
