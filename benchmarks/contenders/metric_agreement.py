"""How far our mean average precision is from pycocotools'."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_lightning.evaluation.mean_average_precision import CocoMeanAveragePrecision

from .detections import Images, make_images
from .reading import print_reading

_MOST = [1, 10, 100, 300]


def main() -> None:
    """Arguments: images, detections an image, classes."""
    print_reading(**measure(*map(int, sys.argv[1:4])))


def measure(count: int, detections: int, classes: int) -> dict[str, Any]:
    """The largest difference as ``value``, and both sets of figures."""
    images = make_images(count, detections, classes)
    metric = CocoMeanAveragePrecision(classes)
    metric.update(*images)
    reference = pycocotools_figures(images, classes)
    computed = metric.compute()
    ours = {name: float(computed[name]) for name in reference}
    difference = max(abs(ours[name] - reference[name]) for name in reference)
    return {"value": difference, "ours": ours, "pycocotools": reference}


def pycocotools_figures(images: Images, classes: int) -> dict[str, float]:
    """The figures of ``COCOeval`` under the names of ours; -1 where there is nothing to find."""
    annotations: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image_id, rows, number, truth, truth_number in zip(
        *(tensor.double().numpy() for tensor in images), strict=True
    ):
        for label, x1, y1, x2, y2, area, crowd in truth[: int(truth_number)]:
            entry = _entry(image_id, label, (x1, y1, x2, y2))
            annotations.append({**entry, "id": len(annotations) + 1, "area": area, "iscrowd": int(crowd)})
        for x1, y1, x2, y2, score, label in rows[: int(number)]:
            found.append({**_entry(image_id, label, (x1, y1, x2, y2)), "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "info": {},
            "images": [{"id": int(i)} for i in images.image_ids],
            "categories": [{"id": c, "name": str(c)} for c in range(classes)],
            "annotations": annotations,
        }
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(found), "bbox")
        evaluation.params.maxDets = _MOST
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., _MOST.index(100)]  # (10, 101, C, 4)
    recall = evaluation.eval["recall"][:, :, 0]  # (10, C, 4)
    figures = {
        "map": precision[..., 0],
        "map_50": precision[0, ..., 0],
        "map_75": precision[5, ..., 0],
        **{f"map_{name}": precision[..., i + 1] for i, name in enumerate(("small", "medium", "large"))},
        "mar_100": recall[..., _MOST.index(100)],
    }
    return {name: _mean(values) for name, values in figures.items()}


def _entry(image_id: float, label: float, box: tuple[float, float, float, float]) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {"image_id": int(image_id), "category_id": int(label), "bbox": [x1, y1, x2 - x1, y2 - y1]}


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


if __name__ == "__main__":
    main()
