"""The best epoch of a run: the first with the best value of the monitored metric, by default ``val/map``.

``best.ckpt``, the best K checkpoints, ``summary.json``, ``evaluation.json``, the star in the table of epochs
and early stopping follow these functions.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence

from ..errors import InputError
from ..evaluation.mean_average_precision import CLASS_FIGURES, FIGURES

MONITOR = "val/map"
_LOSS_PARTS = ("box", "obj", "cls", "dfl")
_LOSSES = ("val/loss", *(f"val/{part}_loss" for part in _LOSS_PARTS))


def checked_monitor(
    name: str, class_names: Sequence[str] | None = None, loss_parts: Sequence[str] = _LOSS_PARTS
) -> str:
    """Return the name under which a monitored metric is logged.

    Args:
        name: of a metric or loss of the validation, with or without ``val/``.
        class_names: names of the classes; None admits every name.
        loss_parts: parts of the loss of the network.

    Raises:
        InputError: no validation logs this metric.
    """
    name = f"val/{name.removeprefix('val/')}"
    known = ["val/loss", *(f"val/{part}_loss" for part in loss_parts), *(f"val/{f}" for f in FIGURES)]
    listed = ", ".join(known)
    of_class = tuple(f"val/{figure}_class/" for figure in CLASS_FIGURES)
    known += [f"{prefix}{label}" for prefix in of_class for label in class_names or ()]
    is_of_class = class_names is None and name.startswith(of_class)
    if not (name in known or is_of_class):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(
            f"monitor is {name!r}, which no validation of this network logs; {hint}there are {listed}, and "
            f"of a class {', '.join(f'{prefix}NAME' for prefix in of_class)}"
        )
    return name


def mode_of(monitor: str) -> str:
    """``min`` for a loss, of which the smallest is best; ``max`` for all others."""
    return "min" if monitor in _LOSSES else "max"


def is_judged(score: float) -> bool:
    """Tell if a score judges its epoch; NaN and -1 stand for no validation, or one with nothing to find."""
    return 0 <= score < math.inf


def is_better(score: float, best: float | None, monitor: str = MONITOR) -> bool:
    """Tell if an epoch replaces the best one so far, None if there is none.

    While no score judges, the newest epoch does.
    """
    if best is None or not is_judged(best):
        return True
    return is_judged(score) and (score < best if mode_of(monitor) == "min" else score > best)


def best_row(rows: list[dict[str, float]], monitor: str = MONITOR) -> dict[str, float]:
    """The row of the best epoch, of at least one."""
    best = rows[0]
    for row in rows[1:]:
        if is_better(row.get(monitor, -1.0), best.get(monitor, -1.0), monitor):
            best = row
    return best
