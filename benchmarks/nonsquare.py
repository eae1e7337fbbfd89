"""Training on rectangles against squares: speed and mAP of 16:9 pictures at [384, 640] and at 640.

``python -m benchmarks.nonsquare --work FOLDER`` draws a data set of shapes of 16:9, trains at both sizes with
several seeds in turn, and writes ``benchmarks/results/nonsquare.json``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo_lightning.data.synthetic import CLASS_NAMES, draw_picture
from yolo_lightning.runs.directory import read_metrics

from .ratios import paired_ratio, spread
from .results import describe_machine, git_commit, write_result


def draw_set(root: Path, split: str, count: int, width: int) -> None:
    """Write pictures of 16:9 in YOLO form."""
    for kind in ("images", "labels"):
        (root / kind / split).mkdir(parents=True)
    height = width * 9 // 16
    for number in range(count):
        rng = np.random.default_rng([int(split == "val"), number])
        picture, shapes = draw_picture(rng, (height, width))
        cv2.imwrite(str(root / "images" / split / f"{number:06d}.jpg"), picture)
        lines = []
        for shape in shapes:
            x, y, w, h = shape["bbox"]
            numbers = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
            lines.append(" ".join([str(shape["category_id"] - 1), *(f"{each:.6f}" for each in numbers)]))
        (root / "labels" / split / f"{number:06d}.txt").write_text("\n".join(lines))


def train(size: str, seed: int, options: argparse.Namespace, further: list[str]) -> dict[str, float]:
    """The median of images a second over the epochs after the first, and the best mAP."""
    runs = (options.work / "runs" / size / str(seed)).absolute()
    command = [
        *(sys.executable, "-m", "yolo_lightning", "fit", f"--data.root={options.work / 'set'}"),
        *(f"--data.image_size={size}", f"--data.batch_size={options.batch}", f"--seed_everything={seed}"),
        *(f"--trainer.max_epochs={options.epochs}", f"--runs_dir={runs}", "--dashboard.pictures=0"),
        *([f"--model.weights={options.weights}"] if options.weights else []),
        *further,
    ]
    subprocess.run(command, check=True, stdout=sys.stderr)
    rows = read_metrics(runs / "fit/version_0/metrics.csv")
    return {
        "images_per_second": statistics.median(row["perf/images_per_second"] for row in rows[1:]),
        "map": max(row["val/map"] for row in rows if "val/map" in row),
    }


def main() -> None:
    """Train at both sizes and write what each reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="a new folder for the pictures and the runs")
    parser.add_argument("--weights")
    parser.add_argument("--width", type=int, default=640, help="side of the square, a multiple of 160")
    parser.add_argument("--images", type=int, default=128, help="to train on; half as many validate")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    options, further = parser.parse_known_args()  # further options are those of ``fit``
    draw_set(options.work / "set", "train", options.images, options.width)
    draw_set(options.work / "set", "val", options.images // 2, options.width)
    (options.work / "set/data.yaml").write_text(
        f"train: images/train\nval: images/val\nnames: [{', '.join(CLASS_NAMES)}]\n"
    )
    sizes = {"square": str(options.width), "rectangle": f"[{options.width * 3 // 5}, {options.width}]"}
    readings: dict[str, list[dict[str, float]]] = {name: [] for name in sizes}
    for seed in range(options.seeds):
        for name, size in sizes.items():
            readings[name].append(train(size, seed, options, further))
    speed, reached = (
        {name: [reading[key] for reading in rows] for name, rows in readings.items()}
        for key in ("images_per_second", "map")
    )
    result: dict[str, Any] = {
        "benchmark": "nonsquare",
        "sizes": sizes,
        "train_images": options.images,
        "batch_size": options.batch,
        "epochs": options.epochs,
        "further_options": further,
        "images_per_second": speed,
        "times_as_fast": paired_ratio(speed["rectangle"], speed["square"], higher_is_better=True),
        "map": reached,
        "map_spread": {name: spread(values) for name, values in reached.items()},
        "load_average": os.getloadavg(),
        "machine": describe_machine(os.cpu_count() or 1),
        "commit": git_commit(),
    }
    print(write_result(Path(__file__).parent / "results", result).read_text())


if __name__ == "__main__":
    main()
