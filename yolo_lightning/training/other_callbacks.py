"""Callbacks of Lightning that change what this training sets itself."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import InputError

_AVERAGED = "use --ema.decay and --ema.ramp_updates"
_REMEDIES = {
    "StochasticWeightAveraging": _AVERAGED,
    "WeightAveraging": _AVERAGED,
    "GradientAccumulationScheduler": "set --model.optimizer.nominal_batch_size, images of a step",
    "LearningRateFinder": "set --model.optimizer.learning_rate",
    "BatchSizeFinder": "set --data.batch_size auto",
    "ModelPruning": "no pruned network is trained here",
}
"""What takes the place of a callback, by the name of its class."""


def refuse_conflicting(callbacks: Iterable[object]) -> None:
    """Refuse callbacks that would be without effect, or fail.

    Raises:
        InputError: there is one.
    """
    for callback in callbacks:
        for kind in type(callback).__mro__:
            if remedy := _REMEDIES.get(kind.__name__):
                raise InputError(
                    f"trainer.callbacks has {type(callback).__name__}, which does not work here: {remedy}; "
                    "leave it out"
                )
