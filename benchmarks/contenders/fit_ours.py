"""Our whole ``fit`` as a process of its own: wall seconds, and what it learnt."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from .epochs import arguments
from .reading import print_reading
from .train_ours import command_line, newest_run, settings_of


def main() -> None:
    """Run ``python -m yolo_lightning fit`` and read its ``summary.json``."""
    options, further = arguments()
    command = [sys.executable, "-m", "yolo_lightning", *command_line(options, further)]
    begin = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - begin
    run = newest_run(options.runs)
    summary = json.loads((run / "summary.json").read_text())
    figures = {
        f"{when}_{name}": summary[when][f"val/{name}"]
        for when in ("best", "last")
        for name in ("map", "map_50")
    }
    print_reading(seconds, seed=options.seed, **figures, **settings_of(run))


if __name__ == "__main__":
    main()
