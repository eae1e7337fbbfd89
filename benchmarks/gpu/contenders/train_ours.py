"""Our ``fit``, as a user types it: images a second, and what its stall monitor logged."""

from __future__ import annotations

import math
import shutil
import statistics
from pathlib import Path
from typing import Any

from yolo_lightning.__main__ import main as yolo_lightning
from yolo_lightning.runs.directory import read_metrics

from ..options import training_parser
from .ours_clock import Clock
from .pictures import data_of


def measure(arguments: list[str]) -> dict[str, Any]:
    """Train until enough was timed, in bf16 and, but at toy size, compiled; nothing is validated or saved."""
    options = training_parser()
    options.add_argument(
        "--cache", default="none", help="as data.cache; none decodes every JPEG in every epoch"
    )
    given = options.parse_args(arguments)
    runs = given.work / "runs" / "ours"
    shutil.rmtree(runs, ignore_errors=True)
    command = [
        "fit",
        *("--data.root", str(data_of(given.work))),
        *("--data.image_size", str(given.size)),
        *("--data.batch_size", str(given.batch)),
        *("--data.cache", given.cache),
        *("--model.architecture", given.architecture),
        *("--model.compile", "false" if given.toy else "true"),
        *("--model.channels_last", "true"),
        *("--trainer.precision", "bf16-mixed"),
        *("--trainer.accelerator", "gpu" if given.device == "cuda" else "cpu"),
        *("--trainer.devices", "1"),
        *("--trainer.max_epochs", "1000"),
        *("--trainer.limit_val_batches", "0"),
        *("--trainer.num_sanity_val_steps", "0"),
        *("--trainer.enable_checkpointing", "false"),
        *("--trainer.logger", "false"),
        *("--runs_dir", str(runs)),
    ]
    clock = {
        "class_path": "benchmarks.gpu.contenders.ours_clock.Clock",
        "init_args": {"seconds": given.seconds},
    }
    yolo_lightning([*command, f"--trainer.callbacks+={clock}"])
    return {
        **Clock.epochs.reading(Clock.images),
        **medians_of_monitor(next(runs.glob("**/metrics.csv"))),
        "command": command_for_the_record(command),
    }


def medians_of_monitor(metrics: Path) -> dict[str, float | None]:
    """Median over the epochs after the first of everything that the stall monitor logged."""
    rows = read_metrics(metrics)
    found: dict[str, float | None] = {}
    for name in rows[-1]:
        if name.startswith("perf/"):
            values = [row[name] for row in rows[1:] or rows if math.isfinite(row.get(name, math.nan))]
            found[name] = statistics.median(values) if values else None
    return found


def command_for_the_record(command: list[str]) -> str:
    """What was typed, without the folders of this machine."""
    kept = []
    for option, value in zip(command[1::2], command[2::2], strict=True):
        is_place = option in ("--data.root", "--runs_dir")
        kept.append(f"{option} {'DIR' if is_place else Path(value).name}")
    return f"yolo-lightning fit {' '.join(kept)}"
