"""Statistics of readings that were taken in turn."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TypedDict


class Spread(TypedDict):
    """Readings in one line."""

    median: float
    min: float
    max: float


class Ratio(Spread):
    """How many times better than another, round by round."""

    rounds: list[float]


def spread(readings: Sequence[float]) -> Spread:
    """Median and range of at least one reading."""
    return {"median": statistics.median(readings), "min": min(readings), "max": max(readings)}


def paired_ratio(ours: Sequence[float], theirs: Sequence[float], higher_is_better: bool) -> Ratio:
    """How many times better we are in each round, and the median of that.

    The readings of one round were taken one after the other, so that what changes between rounds
    (other programs, temperature) is in both and cancels. More than 1 is better for us.

    Args:
        ours: a reading a round.
        theirs: the same number of readings.
        higher_is_better: of the readings; False for times.
    """
    pairs = zip(ours, theirs, strict=True)
    rounds = [a / b if higher_is_better else b / a for a, b in pairs]
    return {"rounds": rounds, **spread(rounds)}
