"""Metrics that several views show, and their titles."""

from __future__ import annotations

import math

from ..system.text import duration

MAP, MAP_50 = "val/map", "val/map_50"
SPEED = "perf/images_per_second"
METRIC_TITLES = {
    MAP: "mAP 50-95",
    MAP_50: "mAP 50",
    "val/map_75": "mAP 75",
    "val/map_small": "mAP small",
    "val/map_medium": "mAP medium",
    "val/map_large": "mAP large",
    "val/mar_100": "recall of 100",
    "val/precision": "precision",
    "val/recall": "recall",
    "val/f1": "F1",
    "val/fitness": "fitness",
}
"""Figures of a validation, by name, in the order in which they are shown."""
NOTHING = "-"
"""Text in place of a figure that does not exist."""
_LOSS_TITLES = {"box": "box", "obj": "objectness", "cls": "class", "dfl": "box distribution"}


def loss_title(part: str) -> str:
    """Title of a part of the loss: ``obj`` is the objectness loss."""
    return f"{_LOSS_TITLES.get(part, part)} loss"


def number(value: float | None, form: str = ".3f") -> str:
    """A figure of a metric; a dash for none, and for -1: earlier runs had nothing to find."""
    return NOTHING if value is None or not math.isfinite(value) or value < 0 else format(value, form)


def duration_text(seconds: float | None) -> str:
    """A duration; a dash for none."""
    return NOTHING if seconds is None else duration(seconds)
