"""Two runs are the same run: weights, averages, momentum, counts, metrics.csv and curves, bit for bit."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TIMED = ("perf/", "wall_seconds")
"""Names of what depends on the clock begin so."""


def contents(run: Path) -> dict[str, Any]:
    """The newest checkpoint of a run directory."""
    loaded: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return loaded


def assert_equal_runs(run: Path, other: Path, cut_at: int | None = None) -> None:
    """Weights, state, rows and curves.

    Args:
        run: that was not stopped.
        other: that was.
        cut_at: Step at which a limit cut an epoch short, whose means so far are in the curves of ``other``.
    """
    one, two = contents(run), contents(other)
    for part in ("state_dict", "live_state_dict"):
        assert one[part].keys() == two[part].keys()
        assert [key for key, value in one[part].items() if not torch.equal(value, two[part][key])] == []
    momenta, others = (c["optimizer_states"][0]["state"] for c in (one, two))
    assert momenta.keys() == others.keys()
    for key, state in momenta.items():
        assert torch.equal(state["momentum_buffer"], others[key]["momentum_buffer"])
    assert one["callbacks"]["ExponentialMovingAverage"] == two["callbacks"]["ExponentialMovingAverage"]
    assert one["global_step"] == two["global_step"]
    assert rows(run) == rows(other)
    told = {
        tag: [point for point in points if point[0] != cut_at or tag.startswith("val/")]
        for tag, points in curves(other).items()
    }
    assert curves(run) == told


def rows(run: Path) -> list[dict[str, str]]:
    """metrics.csv without what depends on the clock."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in csv.DictReader(file)]


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each curve that TensorBoard shows."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.startswith(TIMED) and tag != "epoch"  # which Lightning logs with the validation, too
    }
