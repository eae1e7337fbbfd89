"""The best epoch of a run: the first with the greatest ``val/map``.

``best.ckpt``, ``summary.json``, ``evaluation.json``, the star in the table of epochs and early stopping
follow these functions.
"""

from __future__ import annotations

MONITOR = "val/map"


def is_judged(score: float) -> bool:
    """Tell if a score judges its epoch: -1 comes from a validation with nothing to find, NaN from none."""
    return score >= 0


def is_better(score: float, best: float | None) -> bool:
    """Tell if an epoch replaces the best one so far, None if there is none.

    While no score judges, the newest epoch does.
    """
    return best is None or not is_judged(best) or score > best


def best_row(rows: list[dict[str, float]]) -> dict[str, float]:
    """The row of the best epoch, of at least one."""
    best = rows[0]
    for row in rows[1:]:
        if is_better(row.get(MONITOR, -1.0), best.get(MONITOR, -1.0)):
            best = row
    return best
