"""Our ``fit``: images a second of its training epochs, or of the same on one batch that stays resident."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from yolo_lightning.__main__ import main as yolo_lightning
from yolo_lightning.data.batch import Batch
from yolo_lightning.data.module import DetectionDataModule
from yolo_lightning.runs.directory import read_metrics

from .epoch_clock import EpochClock
from .epochs import arguments, print_epochs

RESIDENT = "--resident"
"""Option of this program: every step gets the same batch, which is loaded once."""
RUN_NAME = "benchmark"


class ResidentBatch:
    """The first batch of a loader again and again; everything else is the loader's own."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.batch: Batch | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        if self.batch is None:
            self.batch = next(iter(self.loader)).map(torch.clone)
        for _ in range(len(self)):
            yield self.batch


def keep_one_batch() -> None:
    """Let every data module of this process give one batch only."""
    original = DetectionDataModule.train_dataloader
    DetectionDataModule.train_dataloader = (  # type: ignore[method-assign]
        lambda self: ResidentBatch(original(self))
    )


def command_line(options: Any, further: list[str]) -> list[str]:
    """What a user types to train, all other options at their defaults."""
    weights = ["--model.weights", options.weights] if options.weights else []
    return [
        "fit",
        *("--data.root", options.root),
        *("--data.image_size", str(options.size)),
        *("--data.batch_size", str(options.batch)),
        *weights,
        *("--trainer.max_epochs", str(options.epochs)),
        *("--seed_everything", str(options.seed)),
        *("--runs_dir", options.runs),
        *("--run_name", RUN_NAME),
        *further,
    ]


def newest_run(runs: str) -> Path:
    """Directory of the run that was started last."""
    return max((Path(runs) / RUN_NAME).glob("version_*"), key=lambda path: int(path.name.split("_")[1]))


def settings_of(run: Path) -> dict[str, Any]:
    """What ``auto`` came to in a run."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    keys = (
        ("model", "compile"),
        ("model", "channels_last"),
        ("data", "cache"),
        ("data", "num_workers"),
    )
    ran = json.loads((run / "environment.json").read_text())["precision"]
    return {"precision": ran, **{f"{room}.{name}": config[room][name] for room, name in keys}}


def main() -> None:
    """Run ``fit`` in this process with one callback more, and print what the callback saw."""
    options, further = arguments()
    if RESIDENT in further:
        further.remove(RESIDENT)
        keep_one_batch()
    clock = ["--trainer.callbacks+=benchmarks.contenders.epoch_clock.EpochClock"]
    yolo_lightning(command_line(options, [*clock, *further]))
    run = newest_run(options.runs)
    rows = read_metrics(run / "metrics.csv")
    performance = {
        name: statistics.median(row[name] for row in rows[1:] or rows)
        for name in rows[-1]
        if name.startswith("perf/")
    }
    print_epochs(EpochClock.timer, EpochClock.images, **performance, **settings_of(run))


if __name__ == "__main__":
    main()
