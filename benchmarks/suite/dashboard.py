"""Benchmark of what pictures, curves and GPU health cost."""

from __future__ import annotations

from ..contest import ROUND, Benchmark, Contender
from ..datasets import TOY, copy_bccd, make_set
from ..plan import Plan


def dashboard(plan: Plan) -> Benchmark:
    """A fit in which everything is shown and nothing, in turn; the round is the seed."""
    return Benchmark(
        name="dashboard",
        title="All that shows a run, on and off in turn: YOLOv5n, BCCD, 320 px, batch 16, 2 cores",
        unit="% of a step",
        higher_is_better=False,
        rounds=plan.rounds_of(3),
        contenders=[
            Contender(
                name="pictures, curves and GPU health",
                does="fit with every option at its default; in every other epoch nothing is drawn or logged",
                module="dashboard_toggle",
                arguments=(
                    *("--root", str(make_set(plan, TOY) if plan.toy else copy_bccd(plan))),
                    *("--epochs", str(4 if plan.toy else 24)),
                    *("--seed", ROUND),
                    *("--runs", str(plan.work / "runs")),
                    *(("--size", "64", "--batch", "4") if plan.toy else ()),
                    *("--weights", str(plan.weights)),
                ),
            )
        ],
        notes=[
            "percent of dashboard: the mean of perf/step_ms over the epochs after a validation that is "
            "shown, in terms of those after one that is not, in one process"
        ],
    )
