"""Loader and step together, and two such pipelines in turn, so that a noisy machine is fair to both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from ...data.batch import Batch
from ...data.loading.ordered import OrderedLoader
from .bare_step import TrainingStep
from .loading import batches_ahead, batches_at_once, endless

ROUNDS = 4


class Pipeline:
    """A loader that feeds a step.

    Args:
        loader: gives batches on the device of the step.
        step: trains on them.
    """

    def __init__(self, loader: OrderedLoader, step: TrainingStep) -> None:
        self.loader = loader
        self.step = step
        self.batches = endless(loader)
        self.resident = Batch(*(tensor.clone() for tensor in next(self.batches)))
        """A batch that stays where it is."""
        self._finish()

    def step_seconds(self, seconds: float) -> float:
        """Mean duration of a step on the resident batch, over so many seconds; two steps at least."""
        return self._mean_seconds(seconds, lambda: self.resident)

    def seconds(self, seconds: float) -> float:
        """Mean duration of loading a batch and training on it, over so many seconds; two batches at least.

        What the loader had made ahead, or had begun, while nobody asked it, is used up before.
        """
        for _ in range(batches_ahead(self.loader) + batches_at_once(self.loader)):
            self.step(next(self.batches))
        return self._mean_seconds(seconds, lambda: next(self.batches), batches_at_once(self.loader))

    def warm_up(self) -> None:
        """Two steps, in which whatever is compiled is compiled."""
        for _ in range(2):
            self.step(self.resident)
        self._finish()

    def close(self) -> None:
        """End the loader's workers."""
        self.batches.close()
        self.loader.close()

    def _mean_seconds(self, seconds: float, give: Callable[[], Batch], at_once: int = 1) -> float:
        self._finish()
        count, began = 0, time.perf_counter()
        while count < 2 or count % at_once or time.perf_counter() - began < seconds:
            self.step(give())
            count += 1
        self._finish()
        return (time.perf_counter() - began) / count

    def _finish(self) -> None:
        if self.step.device.type == "cuda":
            torch.cuda.synchronize(self.step.device)


def compare(pipelines: Sequence[Pipeline], seconds: float) -> list[tuple[float, float]]:
    """Time pipelines in turn, in rounds.

    Args:
        pipelines: one or more.
        seconds: about how long each is run in all.

    Returns:
        For each its step alone, and loader and step together, in seconds a batch: that of the fastest
        round, since other programs only ever add time.
    """
    alone: list[list[float]] = [[] for _ in pipelines]
    together: list[list[float]] = [[] for _ in pipelines]
    for pipeline in pipelines:
        pipeline.warm_up()
    for _ in range(ROUNDS):
        for i, pipeline in enumerate(pipelines):
            alone[i].append(pipeline.step_seconds(0.35 * seconds / ROUNDS))
            together[i].append(pipeline.seconds(0.65 * seconds / ROUNDS))
    return [(min(a), min(t)) for a, t in zip(alone, together, strict=True)]
