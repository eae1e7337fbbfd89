"""The audit of labels and the bootstrap, measured: ``python -m benchmarks.audit labels`` and ``… halvings``.

``labels`` plants errors in 5 % of the labels of a COCO data set (train and val), a third each: dropped,
swapped for another class, moved by 20 to 40 % of the box's sides in both directions, which leaves an IoU of
0.22 to 0.47. It audits the set, and counts which planted errors are found among the first k suspicions, k
being their number. Each planted error counts once; errors that the set had before count as wrong answers.

``halvings`` tells how often the 95 % interval of the bootstrap holds. The images are halved at random 100
times. Both halves are samples of the same images, so the true difference between the mAP of one and of the
other is zero. Each half is resampled on its own, and the interval of the difference, percentiles 2.5 and
97.5, should hold zero in 95 of 100 halvings. The same for the paired difference between two detectors, the
second being the first with boxes and scores disturbed. It needs the detections that ``labels --keep`` wrote.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yolo_lightning.cli.audit import judge, most_accurate, predict_out_of_fold
from yolo_lightning.cli.main import quieten
from yolo_lightning.data.annotations.index import DatasetIndex, join
from yolo_lightning.data.annotations.source import DataSource
from yolo_lightning.evaluation.bootstrap import weighted_map
from yolo_lightning.evaluation.coco_matching import pair_iou
from yolo_lightning.evaluation.image_matches import ImageMatches
from yolo_lightning.evaluation.mean_average_precision import CocoMeanAveragePrecision
from yolo_lightning.evaluation.suspicions import KINDS
from yolo_lightning.system.environment import package_version

from .results import describe_machine, git_commit, write_result

RESULTS = Path(__file__).parent / "results"
SHARE = 0.05
PLANTED = ("dropped", "swapped", "moved")
SPLITS = ("train", "val")


def plant(documents: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Plant errors in COCO documents, in place.

    Returns:
        The errors: ``file``, ``kind``, ``box`` before and ``new_box`` after, xyxy in px.
    """
    rng = np.random.default_rng(seed)
    places = [(split, n) for split in SPLITS for n in range(len(documents[split]["annotations"]))]
    planted, dropped = [], set()
    for number, place in enumerate(rng.permutation(len(places))[: round(SHARE * len(places))]):
        split, n = places[place]
        document, annotation = documents[split], documents[split]["annotations"][n]
        image = next(image for image in document["images"] if image["id"] == annotation["image_id"])
        kind, (x, y, width, height) = PLANTED[number % 3], annotation["bbox"]
        new_x, new_y = x, y
        if kind == "dropped":
            dropped.add((split, n))
        elif kind == "swapped":
            others = [c["id"] for c in document["categories"] if c["id"] != annotation["category_id"]]
            annotation["category_id"] = int(rng.choice(others))
        else:
            by_x, by_y = rng.uniform(0.2, 0.4, 2) * rng.choice([-1, 1], 2) * (width, height)
            new_x = x + by_x if 0 <= x + by_x <= image["width"] - width else x - by_x
            new_y = y + by_y if 0 <= y + by_y <= image["height"] - height else y - by_y
            annotation["bbox"] = [new_x, new_y, width, height]
        box, new_box = ([left, top, left + width, top + height] for left, top in ((x, y), (new_x, new_y)))
        planted.append({"file": image["file_name"], "kind": kind, "box": box, "new_box": new_box})
    for split in SPLITS:
        kept = [a for n, a in enumerate(documents[split]["annotations"]) if (split, n) not in dropped]
        documents[split]["annotations"] = kept
    return planted


def count_found(records: list[dict[str, Any]], planted: list[dict[str, Any]]) -> list[str | None]:
    """Kind of the planted error that each record names, None if it names none; each error counts once."""
    left = list(planted)
    named: list[str | None] = []
    for record in records:
        for error in left:
            of_label = error["kind"] != "dropped"
            given, wanted = (
                (record["label_box"], error["new_box"]) if of_label else (record["found_box"], error["box"])
            )
            if error["file"] != Path(record["file"]).name or of_label == (record["label"] is None):
                continue
            overlap = pair_iou(np.array([given]), np.array([wanted]), np.zeros(1, bool))[0]
            if overlap >= (0.97 if of_label else 0.5):
                left.remove(error)
                named.append(error["kind"])
                break
        else:
            named.append(None)
    return named


def planted_set(root: Path, seed: int, folder: Path) -> tuple[dict[str, Path], list[dict[str, Any]]]:
    """Write the annotations with planted errors into a folder; their files, and the errors."""
    documents = {s: json.loads((root / f"annotations/instances_{s}.json").read_text()) for s in SPLITS}
    planted = plant(documents, seed)
    files = {split: folder / f"{split}.json" for split in SPLITS}
    for split, file in files.items():
        file.write_text(json.dumps(documents[split]))
    return files, planted


def scores_of(records: list[dict[str, Any]], planted: list[dict[str, Any]]) -> dict[str, Any]:
    """Precision and recall of an audit."""
    named = count_found(records, planted)
    is_planted, k = np.array([name is not None for name in named]), len(planted)
    kinds = Counter(error["kind"] for error in planted)
    first = list(zip(records[:k], named, strict=False))
    return {
        "planted": dict(kinds),
        "suspicions": len(records),
        "precision_at_k": round(is_planted[:k].mean(), 4),
        "precision_at_half_k": round(is_planted[: k // 2].mean(), 4),
        "recall_at_2k": round(is_planted[: 2 * k].sum() / k, 4),
        "recall": round(is_planted.sum() / k, 4),
        "recall_by_planted": {kind: round(named.count(kind) / n, 4) for kind, n in kinds.items()},
        "first_k_by_kind": {
            kind: {
                "suspicions": sum(record["kind"] == kind for record, _ in first),
                "planted": sum(record["kind"] == kind for record, name in first if name),
            }
            for kind in KINDS
        },
    }


def spoilt(files: dict[str, Path], images: dict[str, Path]) -> DatasetIndex:
    """The data set with the annotations of these files."""
    source = DataSource(annotations=dict(files), images=dict(images))
    return join(source.read("train"), source.read("val"))


def keep(path: Path, of_flips: list[list[np.ndarray]], truth: list[np.ndarray], seconds: float) -> None:
    """Write detections, for each number of flips they are averaged over, and annotations of each image."""
    tables = {f"found{number or ''}": found for number, found in enumerate(of_flips)} | {"truth": truth}
    values = {name: np.concatenate(table) for name, table in tables.items()}
    counts = {f"{name}_count": list(map(len, table)) for name, table in tables.items()}
    np.savez_compressed(path, seconds=seconds, **values, **counts)


def read_table(kept: Any, name: str) -> list[np.ndarray]:
    """One of the tables of :func:`keep`, image by image."""
    return np.split(kept[name], np.cumsum(kept[f"{name}_count"])[:-1])


def read_kept(path: Path) -> tuple[list[list[np.ndarray]], float]:
    """The detections of :func:`keep`, and the seconds that they took."""
    kept = np.load(path)
    names = sorted(name for name in kept if name.startswith("found") and not name.endswith("count"))
    return [read_table(kept, name) for name in names], float(kept["seconds"])


def measure_labels(options: argparse.Namespace) -> dict[str, Any]:
    """Plant, audit and count; then plant anew and judge by the same detections.

    A fold's detections depend on the labels of the other folds alone, so those of one planting may judge
    another one, of other errors.
    """
    root = options.data.absolute()
    images = {split: root / "images" / split for split in SPLITS}
    settings = {
        "data.image_size": 320, "data.batch_size": 16, "model.optimizer.nominal_batch_size": 16,
        "model.optimizer.warmup_epochs": 1, "trainer.accelerator": "cpu",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        files, planted = planted_set(root, options.seed, Path(folder))
        of_fit = [f"--model.weights={options.weights.absolute()}"]
        of_fit += [f"--data.{split}_annotations={file}" for split, file in files.items()]
        of_fit += [f"--data.{split}_images={place}" for split, place in images.items()]
        of_fit += [f"--{name}={value}" for name, value in settings.items()]
        if options.kept:
            index, of_flips, seconds = spoilt(files, images), *read_kept(options.kept)
        else:
            begun = time.perf_counter()
            index, of_flips = predict_out_of_fold(of_fit, options.folds, options.epochs, Path(folder))
            seconds = time.perf_counter() - begun
        if options.keep:
            keep(options.keep, of_flips, [index.truth(i) for i in range(len(index))], seconds)
        judging = most_accurate(index, of_flips)
        scores = scores_of(judge(index, judging), planted)
        others = []
        for seed in range(options.seed + 1, options.seed + 1 + options.plantings):
            files, planted = planted_set(root, seed, Path(folder))
            others.append(scores_of(judge(spoilt(files, images), judging), planted))
    return {
        "settings": settings | {"folds": options.folds, "epochs": options.epochs, "seed": options.seed},
        "images": len(index),
        "labels": len(index.classes) + scores["planted"]["dropped"],
        **scores,
        "other_plantings": {
            name: [other[name] for other in others]
            for name in ("precision_at_k", "precision_at_half_k", "recall_at_2k", "recall")
        },
        "seconds": round(seconds, 1),
    }


def matches_of(found: list[np.ndarray], truth: list[np.ndarray]) -> ImageMatches:
    """Matches of detections (n, 6) with annotations (m, 7) of each image."""
    metric = CocoMeanAveragePrecision(1 + int(max(table[:, 0].max(initial=0) for table in truth)))
    for i, (detections, labels) in enumerate(zip(found, truth, strict=True)):
        counts = torch.tensor([len(detections)]), torch.tensor([len(labels)])
        tables = torch.from_numpy(detections)[None], torch.from_numpy(labels)[None]
        metric.update(torch.tensor([i]), tables[0], counts[0], tables[1], counts[1])
    metric.compute()
    assert metric.details is not None
    return metric.details.by_image


def disturbed(table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Detections (n, 6) of a worse detector: boxes moved by 5 % of their sides, scores lowered."""
    worse = table.copy()
    sides = np.tile(table[:, 2:4] - table[:, :2], 2)
    worse[:, :4] += sides * rng.normal(0, 0.05, sides.shape)
    worse[:, 4] *= rng.uniform(0.6, 1, len(table))
    return worse


def measure_halvings(options: argparse.Namespace) -> dict[str, Any]:
    """Count the halvings whose interval holds zero."""
    kept = np.load(options.detections)
    found, truth = (read_table(kept, name) for name in ("found", "truth"))
    rng = np.random.default_rng(0)
    runs = [matches_of(tables, truth) for tables in (found, [disturbed(table, rng) for table in found])]
    images = len(truth)
    held = {"map": 0, "difference": 0}
    for halving in range(options.halvings):
        order = np.random.default_rng((1, halving)).permutation(images)
        values = []
        for half in (order[: images // 2], order[images // 2 :]):
            weights = np.zeros((options.resamples, images), np.int64)
            weights[:, half] = rng.multinomial(len(half), np.full(len(half), 1 / len(half)), len(weights))
            values.append([weighted_map(run, weights) for run in runs])
        (first, worse_first), (second, worse_second) = values
        gaps = {"map": first - second, "difference": (first - worse_first) - (second - worse_second)}
        for name, gap in gaps.items():
            low, high = np.percentile(gap, [2.5, 97.5])
            held[name] += int(low <= 0 <= high)
    whole = [round(float(weighted_map(run, np.ones((1, images), np.int64))[0]), 4) for run in runs]
    return {
        "images": images, "halvings": options.halvings, "resamples": options.resamples,
        "map_of_the_two_detectors": whole, "intervals_that_hold": held,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    labels = parts.add_parser("labels")
    labels.add_argument("--data", type=Path, required=True)
    labels.add_argument("--weights", type=Path, required=True)
    labels.add_argument("--folds", type=int, default=3)
    labels.add_argument("--epochs", type=int, default=30)
    labels.add_argument("--seed", type=int, default=2, help="of what is planted")
    labels.add_argument(
        "--plantings", type=int, default=10, help="further ones, judged by the same detections"
    )
    labels.add_argument("--keep", type=Path, help="file for the detections (.npz)")
    labels.add_argument("--kept", type=Path, help="such a file: judges anew without training")
    halvings = parts.add_parser("halvings")
    halvings.add_argument("--detections", type=Path, required=True)
    halvings.add_argument("--halvings", type=int, default=100)
    halvings.add_argument("--resamples", type=int, default=200)
    options = parser.parse_args()
    quieten()
    result = (measure_labels if options.part == "labels" else measure_halvings)(options)
    versions = {name: package_version(name) for name in ("torch", "lightning", "numpy")}
    facts = {
        "machine": describe_machine(torch.get_num_threads()),
        "versions": versions,
        "commit": git_commit(),
    }
    print(write_result(RESULTS, {"benchmark": f"audit_{options.part}", **result, **facts}))


if __name__ == "__main__":
    main()
