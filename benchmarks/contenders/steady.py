"""The rate of a loader in its steady state, taken the same way of everyone."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator


def arguments() -> argparse.Namespace:
    """The options of the programs that measure a loader."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True, help="folder of the data set")
    parser.add_argument("--size", type=int, default=640, help="training size in px")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0, help="least time to measure over")
    parser.add_argument("--warm-up", type=int, default=20, help="batches before that")
    parser.add_argument("--least", type=int, default=12, help="least number of batches to measure")
    parser.add_argument("--cache", default="none", help="of our data module")
    return parser.parse_args()


def steady_rate(
    batches: Iterator[int], *, warm_up: int, seconds: float, least: int, workers: int
) -> dict[str, float]:
    """Images a second of an endless loader.

    Nothing is done with the batches, so the workers are never ahead: what arrives is what they make.
    Workers finish at about the same time, so that a number of batches is measured of which each has
    made the same share.

    Args:
        batches: the number of images of each batch, without end.
        warm_up: batches before the clock starts.
        seconds: least time on the clock.
        least: least number of batches on the clock.
        workers: of the loader.

    Returns:
        ``rate`` in images/s, ``images``, ``batches`` and ``seconds``.
    """
    group = max(1, workers)
    for _ in range(-(-warm_up // group) * group):
        next(batches)
    images = count = 0
    begin = time.perf_counter()
    while True:
        images += next(batches)
        count += 1
        elapsed = time.perf_counter() - begin
        if elapsed >= seconds and count >= least and count % group == 0:
            return {"rate": images / elapsed, "images": images, "batches": count, "seconds": elapsed}
