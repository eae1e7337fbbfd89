"""Benchmark of what pictures, curves, GPU health and the report cost."""

from __future__ import annotations

from ..contest import ROUND, Benchmark, Contender
from ..datasets import TOY, copy_bccd, make_set
from ..plan import Plan

_OFF = (
    *("--dashboard.pictures", "0"),
    *("--dashboard.curves", "false"),
    *("--dashboard.graph", "false"),
    *("--dashboard.gpu_health", "false"),
    *("--dashboard.report", "false"),
)


def dashboard(plan: Plan) -> Benchmark:
    """The same fit with everything shown and with nothing; the round is the seed."""
    common = (
        *("--root", str(make_set(plan, TOY) if plan.toy else copy_bccd(plan))),
        *("--seed", ROUND),
        *("--runs", str(plan.work / "runs")),
        *(("--size", "64", "--batch", "4") if plan.toy else ()),
        *("--weights", str(plan.weights)),
    )
    arguments = (*common, "--epochs", str(2 if plan.toy else 6))
    return Benchmark(
        name="dashboard",
        title="All that shows a run, in a fit: YOLOv5n, BCCD, 320 px, batch 16, 2 cores",
        unit="ms a step",
        higher_is_better=False,
        rounds=plan.rounds_of(5),
        contenders=[
            Contender("everything", "fit with every option at its default", "step_time", arguments),
            Contender(
                "nothing",
                "the same with every --dashboard option off",
                "step_time",
                (*arguments, *_OFF),
                is_ours=False,
            ),
        ],
        notes=[
            "ms a step of dashboard are the mean of perf/step_ms over the epochs after the first; pictures "
            "of an epoch are drawn while the next one trains, on the same cores"
        ],
        warm_up=Contender("warm-up", "one epoch", "step_time", (*common, "--epochs", "1")),
    )
