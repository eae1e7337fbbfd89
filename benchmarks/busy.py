"""Training beside busy programs: ``python -m benchmarks.busy --root BCCD --weights yolov5n.pt``.

One ``fit`` trains an epoch after the other: alone, beside one program that keeps a core busy, and beside
three. The programs are in sessions of their own, as those of another user are. Epochs alone and beside one
program are also trained as before, when threads always spun while they waited for each other. Orders
alternate between rounds, and ratios are medians over them. Further options are those of ``fit``. The result
is in ``benchmarks/results/busy.json``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from yolo_lightning.__main__ import main as yolo_lightning
from yolo_lightning.system.environment import package_version

from .contenders.beside import BesideOthers, Setting
from .plan import CORES
from .ratios import paired_ratio, spread
from .results import describe_machine, git_commit, write_result

RESULTS = Path(__file__).parent / "results"
SETTINGS = {
    "alone": Setting(0),
    "beside 1": Setting(1),
    "beside 3": Setting(3),
    "alone, spinning": Setting(0, watches=False),
    "beside 1, spinning": Setting(1, watches=False),
}
RATIOS = (
    ("alone", "alone, spinning"), ("beside 1", "alone"), ("beside 3", "alone"),
    ("beside 1, spinning", "alone, spinning"), ("beside 1", "beside 1, spinning"),
)  # fmt: skip
"""Settings whose speeds are divided, round by round."""


def order(rounds: int) -> list[str]:
    """Names of the settings of all epochs."""
    names = list(SETTINGS)
    return [name for number in range(rounds) for name in names[:: -1 if number % 2 else 1]]


def summarise(names: list[str], speeds: list[float]) -> dict[str, Any]:
    """Readings of each setting, and the ratios of their rounds."""
    readings: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for name, speed in zip(names, speeds, strict=True):
        readings[name].append(round(speed, 2))
    return {
        "images_per_second": {n: {"readings": values, **spread(values)} for n, values in readings.items()},
        "ratios": {f"{a} / {b}": paired_ratio(readings[a], readings[b], True) for a, b in RATIOS},
    }


def main(argv: list[str] | None = None) -> None:
    """Train, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="data set")
    parser.add_argument("--weights", required=True, help="official yolov5n.pt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options, further = parser.parse_known_args(argv)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # busy programs inherit it
    names = order(options.rounds)
    BesideOthers.settings = [SETTINGS[name] for name in names]
    with tempfile.TemporaryDirectory() as runs:
        yolo_lightning([
            "fit", "--data.root", options.root, "--model.weights", options.weights,
            "--data.image_size", "320", "--data.batch_size", "16", "--runs_dir", runs,
            "--trainer.max_epochs", str(len(names) + 1), "--trainer.limit_val_batches", "0",
            "--trainer.callbacks+=benchmarks.contenders.beside.BesideOthers", *further,
        ])  # fmt: skip
    result = {
        "benchmark": "busy",
        "title": "Training beside busy programs: YOLOv5n, 320 px, batch 16, 2 cores",
        **summarise(names, BesideOthers.speeds),
        "lines": BesideOthers.lines,
        "fit": further,
        "load_average": os.getloadavg(),
        "machine": describe_machine(CORES),
        "versions": {name: package_version(name) for name in ("torch", "lightning")},
        "commit": git_commit(),
    }
    print(write_result(options.out, result).read_text())


if __name__ == "__main__":
    main()
