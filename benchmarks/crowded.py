"""The cost of one crowded picture: epochs of a data set in which one image has 1,000 objects, and without it.

``python -m benchmarks.crowded --root BCCD --work FOLDER`` copies a YOLO data set twice, crowds one training
image of the second copy, trains both in turn, and writes ``benchmarks/results/crowded.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from .contenders.reading import PREFIX
from .ratios import paired_ratio
from .results import describe_machine, git_commit

OBJECTS = 1000


def crowd(root: Path) -> None:
    """Give the first training image of a YOLO data set small objects of its first class, 1,000 in all."""
    labels = min((root / "labels/train").glob("*.txt"))
    lines, rng = labels.read_text().splitlines(), random.Random(0)
    while len(lines) < OBJECTS:
        x, y = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9)
        width, height = rng.uniform(0.03, 0.15), rng.uniform(0.03, 0.15)
        lines.append(f"0 {x:.6f} {y:.6f} {width:.6f} {height:.6f}")
    labels.write_text("\n".join(lines) + "\n")


def epochs(root: Path, work: Path, options: argparse.Namespace, further: list[str]) -> list[float]:
    """Seconds of each epoch after the first of a training in a process of its own."""
    command = [
        *(sys.executable, "-m", "benchmarks.contenders.train_ours", "--root", str(root)),
        *("--size", str(options.size), "--batch", str(options.batch), "--epochs", str(options.epochs + 1)),
        *("--runs", str(work / "runs"), *(["--weights", options.weights] if options.weights else [])),
        *further,
    ]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    (line,) = (line for line in result.stdout.splitlines() if line.startswith(PREFIX))
    seconds: list[float] = json.loads(line.removeprefix(PREFIX))["details"]["epoch_seconds"][1:]
    return seconds


def main() -> None:
    """Train both sets in turn and write what each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="a YOLO data set with labels/train")
    parser.add_argument("--work", type=Path, required=True, help="a new folder for the copies and the runs")
    parser.add_argument("--weights")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3, help="timed in each round")
    parser.add_argument("--rounds", type=int, default=3)
    options, further = parser.parse_known_args()
    sets = {name: options.work / name for name in ("plain", "crowded")}
    for folder in sets.values():
        shutil.copytree(options.root, folder, ignore=shutil.ignore_patterns("annotations"))
    crowd(sets["crowded"])
    seconds: dict[str, list[float]] = {name: [] for name in sets}
    for _ in range(options.rounds):
        for name, folder in sets.items():
            seconds[name].append(statistics.median(epochs(folder, options.work, options, further)))
    ratio = paired_ratio(seconds["crowded"], seconds["plain"], higher_is_better=True)
    result: dict[str, Any] = {
        "benchmark": "crowded",
        "objects": OBJECTS,
        "size": options.size,
        "batch_size": options.batch,
        "epoch_seconds": seconds,
        "times_as_long": ratio,
        "load_average": os.getloadavg(),
        "machine": describe_machine(os.cpu_count() or 1),
        "commit": git_commit(),
    }
    text = json.dumps(result, indent=1)
    (Path(__file__).parent / "results/crowded.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
