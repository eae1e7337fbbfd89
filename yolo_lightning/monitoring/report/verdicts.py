"""Verdicts on runs: differences in mAP with their 95 % intervals, by a paired bootstrap over images."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...evaluation.bootstrap import RESAMPLES, estimate_difference
from ...evaluation.image_matches import MATCHES, ImageMatches
from ..metric_names import MAP, METRIC_TITLES
from .read import Run

NOT_OPTIONS = {"run_name", "runs_dir", "trainer.default_root_dir"}
"""Options that say where a run lies, and nothing about its training."""
_SEEDS = {"seed_everything", "model.seed", "data.seed"}
"""Options in which the runs of one side may differ."""


def verdicts(runs: Sequence[Run]) -> list[str]:
    """Compare each side with the first, a sentence a side, or say why they cannot be compared.

    Runs that differ only in their seeds, as ``fit --seeds`` makes them, are one side. If all do, each run is
    a side.
    """
    sides = _sides(runs)
    if missing := [run.name for run in runs if run.matches is None]:
        return [
            f"no paired comparison: {missing[0]} has no {MATCHES}, which fit and validate write unless "
            "dashboard.curves is false; validate its best.ckpt and compare that run"
        ]
    base, sentences, method = sides[0], [], []
    for side in sides[1:]:
        ours, theirs = ([run.matches for run in part if run.matches] for part in (side, base))
        names = _named(side, runs), _named(base, runs)
        if not all(_are_paired(matches, ours[0]) for matches in (*ours, *theirs)):
            sentences.append(
                f"{names[0]} and {names[1]} were validated on different images or labels, so their "
                "difference says nothing; train both with one validation set"
            )
            continue
        found = estimate_difference(theirs, ours)
        sentences.append(
            f"{names[0]} against {names[1]}: {METRIC_TITLES[MAP]} {found.value:+.4f}, 95 % interval "
            f"{found.low:+.4f} to {found.high:+.4f}: {found.verdict}"
        )
        images, seeds = len(ours[0].image_ids), " and seeds" if any(len(side) > 1 for side in sides) else ""
        method = [f"(paired bootstrap over {images} validation images{seeds}, {RESAMPLES} resamples)"]
    return [*sentences, *method]


def _are_paired(first: ImageMatches, second: ImageMatches) -> bool:
    """Tell whether two validations had the same images and labels; a damaged file may only claim it."""
    same = np.array_equal(first.digest, second.digest)
    return same and np.array_equal(first.image_ids, second.image_ids)


def _sides(runs: Sequence[Run]) -> list[list[Run]]:
    sides: dict[str, list[Run]] = {}
    for run in runs:
        options = flatten(run.config)
        shared = {name: value for name, value in options.items() if name not in NOT_OPTIONS | _SEEDS}
        sides.setdefault(json.dumps(shared, sort_keys=True, default=str), []).append(run)
    return list(sides.values()) if len(sides) > 1 else [[run] for run in runs]


def _named(side: Sequence[Run], runs: Sequence[Run]) -> str:
    names = dict(zip((run.directory for run in runs), short_names(runs), strict=True))
    return " + ".join(names[run.directory] for run in side)


def short_names(runs: Sequence[Run]) -> list[str]:
    """The last folders of each run, as many as tell the runs apart."""
    directories = [run.directory for run in runs]
    for depth in itertools.count(2):
        names = ["/".join(path.parts[-depth:]) for path in directories]
        if len(set(names)) == len(set(directories)):
            break
    return names


def flatten(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options by dotted name: {a: {b: 1}} -> {a.b: 1}."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
