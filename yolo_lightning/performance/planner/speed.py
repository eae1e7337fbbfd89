"""Bounds on the speed of a training step on a card: a roofline of its operators."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from .cards import Card
from .step import StepPlan
from .trace import Operator

_LAUNCH_S = 6e-6
"""Time in which the host launches an operator; compiled, a step has a tenth of the operators."""
_BEST_SHARE, _WORST_SHARE = 0.7, 0.2
"""Share of the roofline that trainings reach. Those of YOLOv5 n to x on a V100, with validation, are at 0.26
to 0.44 of it (https://github.com/ultralytics/yolov5#pretrained-checkpoints)."""


class Speed(NamedTuple):
    """Images a second that a card trains if it never waits for data."""

    low: float
    high: float
    bound_by: str  # what limits the step: arithmetic, bandwidth or launches


def bound_speed(plan: StepPlan, card: Card, is_half: bool) -> Speed:
    """Bracket for the images a second of a step on a card.

    At the roofline each convolution takes its arithmetic or its traffic, whichever is longer, and everything
    else its traffic.
    """
    times = [_times(op, card, is_half) for op in plan.operators]
    arithmetic = sum(compute for compute, move in times if compute > move)
    traffic = sum(move for compute, move in times if compute <= move)
    launches = len(plan.operators) * _LAUNCH_S
    ideal = arithmetic + traffic
    bounds = {"arithmetic": arithmetic, "memory bandwidth": traffic, "launches": launches * _BEST_SHARE}
    return Speed(
        low=plan.batch_size / max(ideal / _WORST_SHARE, launches),
        high=plan.batch_size / max(ideal / _BEST_SHARE, launches / 10),
        bound_by=max(bounds, key=lambda name: bounds[name]),
    )


def roofline_seconds(plan: StepPlan, card: Card, is_half: bool) -> dict[str, float]:
    """Seconds of a batch in all operators of a name at the roofline, such as ``convolution_backward``."""
    found: defaultdict[str, float] = defaultdict(float)
    for op in plan.operators:
        found[op.name] += max(_times(op, card, is_half))
    return dict(found)


def _times(op: Operator, card: Card, is_half: bool) -> tuple[float, float]:
    """Seconds of the arithmetic and of the traffic of an operator."""
    flops = (card.half_tflops if is_half else card.single_tflops) * 1e12
    return op.flops / flops, op.bytes / (card.bandwidth * 1e9)
