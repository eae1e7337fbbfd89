"""A whole training of ultralytics/yolov5 as a process of its own: wall seconds, and what it learnt."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path

from .epochs import arguments
from .reading import print_reading

_FIGURES = {"map": "metrics/mAP_0.5:0.95", "map_50": "metrics/mAP_0.5"}


def main() -> None:
    """Run ``yolov5 train`` and read its ``results.csv``: best by its own fitness, and last."""
    options, further = arguments()
    project, name = Path(options.runs).absolute(), f"yolov5_{time.time_ns()}"
    command = [
        str(Path(sys.executable).parent / "yolov5"),
        "train",
        *("--weights", options.weights),
        *("--data", str(Path(options.root) / "data.yaml")),
        *("--img", str(options.size)),
        *("--batch_size", str(options.batch)),
        *("--epochs", str(options.epochs)),
        *("--seed", str(options.seed)),
        *("--workers", "2"),
        *("--device", "cpu"),
        *("--project", str(project)),
        *("--name", name),
        "--noplots",
        *further,
    ]
    begin = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - begin
    with (project / name / "results.csv").open(newline="") as file:
        rows = [
            {key.strip(): float(text) for key, text in row.items()}
            for row in csv.DictReader(file, skipinitialspace=True)
        ]
    best = max(rows, key=lambda row: 0.9 * row[_FIGURES["map"]] + 0.1 * row[_FIGURES["map_50"]])
    figures = {
        f"{when}_{short}": row[column]
        for when, row in (("best", best), ("last", rows[-1]))
        for short, column in _FIGURES.items()
    }
    print_reading(seconds, seed=options.seed, **figures)


if __name__ == "__main__":
    main()
