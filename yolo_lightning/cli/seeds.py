"""``yolo-lightning fit --seeds N``: the same training with the seeds 0 .. N-1, one after the other."""

from __future__ import annotations

import re
import signal
import statistics
import subprocess
import sys

from ..errors import InputError
from ..monitoring.report.read import find_run, read_run
from .command_parser import CommandParser


def fit_seeds(argv: list[str]) -> None:
    """Train each seed in a process of its own, then print the mean and spread of the best epochs' monitor.

    The runs are ``RUN_NAME-seed0/version_K`` and so on. One that was stopped is resumed, one that has ended
    is not repeated.

    Args:
        argv: options of ``fit``, ``--seeds`` among them.

    Raises:
        InputError: an option is wrong.
        SystemExit: a training has failed or was stopped; with its status.
    """
    parser = CommandParser("fit", "--seeds N --run_name NAME [options]", "")
    for name in ("seeds", "run_name", "seed_everything", "ckpt_path"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--runs_dir", default="runs")
    options, rest = parser.parse_known_args(argv)
    if not re.fullmatch("[0-9]+", options.seeds or "") or int(options.seeds) < 2:
        raise InputError(f"--seeds is {options.seeds}; give a number from 2")
    if not options.run_name:
        raise InputError("--seeds needs --run_name NAME, by which its runs are found again; give one")
    for name in ("seed_everything", "ckpt_path"):
        if getattr(options, name) is not None:
            raise InputError(f"--seeds sets --{name} for each run; leave it out")
    names = [f"{options.run_name}-seed{seed}" for seed in range(int(options.seeds))]
    for seed, name in enumerate(names):
        own = [f"--seed_everything={seed}", f"--run_name={name}", f"--runs_dir={options.runs_dir}"]
        _train([*rest, *own, "--ckpt_path=auto"])
    runs = [read_run(find_run(name, options.runs_dir)) for name in names]
    monitor = runs[0].monitor
    best = [run.best[monitor] for run in runs if monitor in run.best]
    if len(best) == len(runs):
        each = ", ".join(f"{value:.4f}" for value in best)
        spread = f"mean {statistics.mean(best):.4f}, standard deviation {statistics.stdev(best):.4f}"
        print(f"best {monitor} of {len(best)} seeds: {spread} ({each})")


def _train(options: list[str]) -> None:
    # Ctrl-C reaches the training, too, which saves before it ends; to end earlier would leave it behind.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with subprocess.Popen([sys.executable, "-m", "yolo_lightning", "fit", *options]) as child:
            try:
                status = child.wait()
            except SystemExit:  # from SIGTERM; the training saves before it ends
                child.terminate()
                raise
    finally:
        signal.signal(signal.SIGINT, before)
    if status:
        sys.exit(status if status > 0 else 128 - status)
