"""Benchmark of what the pictures, curves, graph, GPU health and report of a run cost."""

from __future__ import annotations

from ..contest import ROUND, Benchmark, Contender
from ..plan import Plan
from .training import CLOCK, common_arguments, ours

NOTHING = (
    *("--dashboard.pictures", "0"),
    *("--dashboard.curves", "false"),
    *("--dashboard.graph", "false"),
    *("--dashboard.gpu_health", "false"),
    *("--dashboard.report", "false"),
)


def dashboard(plan: Plan) -> Benchmark:
    """The same fit with everything shown and with nothing; the round is the seed.

    Two processes that do exactly the same differ by more than what is measured, by where their memory
    lies, so that there are many rounds.
    """
    arguments, two_epochs = (
        (*common_arguments(plan, epochs, ROUND), "--weights", str(plan.weights)) for epochs in (12, 2)
    )
    return Benchmark(
        name="dashboard",
        title="Training with and without all that shows a run: YOLOv5n, BCCD, 320 px, batch 16, 2 cores",
        unit="images/s",
        rounds=plan.rounds_of(10),
        contenders=[
            ours("everything", "fit with every option at its default", arguments),
            Contender(
                name="nothing",
                does=f"the same with {' '.join(NOTHING)}",
                module="train_ours",
                arguments=(*arguments, *NOTHING),
                is_ours=False,
            ),
        ],
        notes=[CLOCK],
        warm_up=ours("warm-up", "two epochs", two_epochs),
    )
