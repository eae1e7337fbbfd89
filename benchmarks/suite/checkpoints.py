"""Benchmark of what checkpoints cost."""

from __future__ import annotations

from ..contest import ROUND, Benchmark, Contender
from ..plan import Plan
from .training import common_arguments


def checkpoints(plan: Plan) -> Benchmark:
    """Epochs with checkpoints beside epochs without, and whole fits with and without; the round is the seed.

    Run-to-run noise exceeds the cost of checkpoints; the noise between neighbouring epochs of one fit does
    not. The whole fits show that nothing is missing from those.
    """
    arguments, one_epoch = (
        (*common_arguments(plan, epochs, ROUND), "--weights", str(plan.weights))
        for epochs in (plan.fit_epochs, 1)
    )
    fours = 1 if plan.toy else 10
    return Benchmark(
        name="checkpoints",
        title=f"Checkpoints, and fits of {plan.fit_epochs} epochs: YOLOv5n, BCCD, 320 px, batch 16, 2 cores",
        unit="s",
        higher_is_better=False,
        rounds=plan.rounds_of(4),
        contenders=[
            Contender(
                name="a save",
                does="what one checkpoint adds to an epoch of fit with every option at its default: epochs "
                f"with one after every batch beside neighbours without, the median of {fours} times four",
                module="checkpoint_epochs",
                arguments=(*arguments, "--epochs", str(4 * fours + 1)),
                unit="%",
            ),
            Contender(
                name="every epoch",
                does="fit with every option at its default: best.ckpt and last.ckpt, and the last before it",
                module="checkpoint_fit",
                arguments=arguments,
            ),
            Contender(
                name="none",
                does="the same with --trainer.enable_checkpointing false",
                module="checkpoint_fit",
                arguments=(*arguments, "--trainer.enable_checkpointing", "false"),
                is_ours=False,
            ),
        ],
        notes=[
            "a save of checkpoints is a share of an epoch, from its start to the end of its validation; "
            "seconds of whole fits run from the start of the first epoch to the end, when the last file is "
            "on the disk",
        ],
        timeout_s=4 * 3600,
        warm_up=Contender("warm-up", "one epoch", "checkpoint_fit", one_epoch),
    )
