"""Our ``fit``: seconds of its epochs, validation and checkpoints included, until the last file is written."""

from __future__ import annotations

import json

from yolo_lightning.__main__ import main as yolo_lightning

from .checkpoint_clock import CheckpointClock
from .epochs import arguments
from .reading import print_reading
from .train_ours import command_line, newest_run, settings_of


def main() -> None:
    """Run ``fit`` in this process with the clock, and print what it showed."""
    options, further = arguments()
    clock = "--trainer.callbacks+=benchmarks.contenders.checkpoint_clock.CheckpointClock"
    yolo_lightning(command_line(options, [clock, *further]))
    run = newest_run(options.runs)
    files = {file.name: round(file.stat().st_size / 1e6, 1) for file in run.glob("checkpoints/*.ckpt")}
    print_reading(
        CheckpointClock.seconds,
        saves=CheckpointClock.saves,
        stall_s=CheckpointClock.stall_s,
        megabytes=files,
        last_map=json.loads((run / "summary.json").read_text())["last"]["val/map"],
        **settings_of(run),
    )


if __name__ == "__main__":
    main()
