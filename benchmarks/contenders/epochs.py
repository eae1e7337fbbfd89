"""What the programs that train have in common: their options, and a clock for epochs."""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from .reading import print_reading


def arguments() -> tuple[argparse.Namespace, list[str]]:
    """The options that all trainers share, and what else was given, for the trainer itself."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True, help="folder of the data set, with a data.yaml")
    parser.add_argument("--weights", help="official weights to start from")
    parser.add_argument("--size", type=int, default=320, help="training size in px")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", required=True, help="folder for what the trainer writes")
    return parser.parse_known_args()


class EpochTimer:
    """Seconds from the start of each training epoch to the end of its last batch; validation is in none.

    Attributes:
        seconds: of each epoch.
        threads: that torch used in the newest.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.threads = 0
        self._begin = 0.0

    def start(self, *_: Any, **__: Any) -> None:
        self._begin = time.perf_counter()

    def stop(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self._begin)
        import torch  # not above: a peer may want to set variables before torch is imported

        self.threads = torch.get_num_threads()


def print_epochs(timer: EpochTimer, images: int, **details: Any) -> None:
    """Print images/s: those of the data set over the median epoch after the first.

    The first is left out because it compiles, forks workers and warms up. Images are those of the
    data set, so that a trainer that fills its last batch up gains nothing by it.

    Args:
        timer: has seen at least one epoch.
        images: of the training split.
        details: what else to keep.
    """
    later = timer.seconds[1:] or timer.seconds
    print_reading(
        images / statistics.median(later),
        images=images,
        epoch_seconds=timer.seconds,
        threads=timer.threads,
        **details,
    )
