"""Options that programs of this suite have in common."""

from __future__ import annotations

import argparse
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """Those of every program; where data lie and where to write are added by the suite itself."""
    options = argparse.ArgumentParser()
    options.add_argument("--device", choices=("cuda", "cpu"), required=True)
    options.add_argument("--size", type=int, required=True, help="image size in px")
    options.add_argument("--work", type=Path, required=True, help="folder for data, runs and caches")
    return options


def training_parser() -> argparse.ArgumentParser:
    """Those of a trainer."""
    options = parser()
    options.add_argument("--architecture", required=True, help="yolov5s; ours takes the path of a YAML too")
    options.add_argument("--batch", type=int, required=True)
    options.add_argument("--seconds", type=float, required=True, help="least time on the clock")
    options.add_argument("--toy", action="store_true", help="as little as possible")
    return options
