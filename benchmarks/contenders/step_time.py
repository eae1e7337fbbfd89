"""Our ``fit``: mean duration of its steps, as its own monitor has it."""

from __future__ import annotations

import statistics

from yolo_lightning.__main__ import main as yolo_lightning
from yolo_lightning.callbacks.record import read_metrics

from .epochs import arguments
from .reading import print_reading
from .train_ours import command_line, newest_run, settings_of


def main() -> None:
    """Run ``fit`` in this process, and print what its metrics.csv says."""
    options, further = arguments()
    yolo_lightning(command_line(options, further))
    run = newest_run(options.runs)
    rows = read_metrics(run / "metrics.csv")
    steps = [row["perf/step_ms"] for row in rows[1:] or rows]
    print_reading(statistics.fmean(steps), step_ms=steps, **settings_of(run))


if __name__ == "__main__":
    main()
