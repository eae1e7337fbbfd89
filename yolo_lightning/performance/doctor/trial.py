"""Plans tried out on a sample of the user's images: loader, step, and both together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ...data.augment import Augmentation
from ...data.images.cache import ImageCache
from ...data.loading.ordered import OrderedLoader
from .bare_step import TrainingStep, build_augmentation
from .candidates import StepShape, StepTime
from .loading import LoaderRate, make_loader, measure_loader
from .sample import TrainingSample
from .together import Pipeline, compare
from .verdict import LEAST_GAIN, Plan, Timing, with_compiled_step


class Trial:
    """Tries plans.

    Args:
        shape: of the step.
        sample: images to load.
        cache: the same images decoded; None where no plan has a cache.
        times: what was measured of the step by itself.
        announce: is told what is being measured.
        scale: factor for all durations.

    Attributes:
        notes: what has to be said about the figures.
    """

    def __init__(
        self,
        shape: StepShape,
        sample: TrainingSample,
        cache: ImageCache | None,
        times: Sequence[StepTime],
        announce: Callable[[str], None],
        scale: float,
    ) -> None:
        self.shape, self.sample, self.cache = shape, sample, cache
        self.times = {time.candidate: time for time in times if not time.failure}
        self.announce, self.scale = announce, scale
        self.device = torch.device(shape.device)
        self.notes: list[str] = []
        self._augmentations: dict[bool, Augmentation] = {}

    def load(self, plan: Plan, seconds: float) -> LoaderRate:
        """The loader of a plan by itself."""
        self.announce(f"loading alone: cache {plan.cache}, {plan.workers} workers")
        loader = self._loader(plan)
        try:
            return measure_loader(loader, self.shape.batch_size, self.device, seconds * self.scale)
        finally:
            loader.close()

    def train(self, plans: Sequence[Plan], loader_ms: Sequence[float], seconds: float) -> list[Timing]:
        """Plans with loader and step together, in turn.

        Args:
            plans: one or more.
            loader_ms: what the loader of each takes by itself, in ms an image.
            seconds: for each.
        """
        self.announce(
            "loading and training together: "
            + " against ".join(f"cache {p.cache}, {p.workers} workers, {p.candidate}" for p in plans)
        )
        pipelines = [Pipeline(self._loader(plan), self._step(plan)) for plan in plans]
        try:
            measured = compare(pipelines, seconds * self.scale)
        finally:
            for pipeline in pipelines:
                pipeline.close()
        timings = []
        for plan, loader, batch_s in zip(plans, loader_ms, measured, strict=True):
            step_ms, together_ms = (1000 * each / self.shape.batch_size for each in batch_s)
            timings.append(self._as_compiled(plan, Timing(loader, step_ms, together_ms)))
        return timings

    def try_workers(self, plan: Plan, timing: Timing, counts: Sequence[int]) -> tuple[Plan, Timing]:
        """The plan with another number of workers, if one is faster.

        Args:
            plan: the best so far.
            timing: what was measured of it.
            counts: to be tried.
        """
        for workers in counts:
            other = plan._replace(workers=workers)
            loader_ms = 1000 / self.load(other, 2.0).images_per_second
            present, found = self.train([plan, other], [timing.loader_ms, loader_ms], 5.0)
            ratio = found.together_ms / present.together_ms
            if ratio * LEAST_GAIN < 1:
                plan = other
                timing = Timing(loader_ms, timing.step_ms, ratio * timing.together_ms)
        return plan, timing

    def step_ms(self, plan: Plan) -> float:
        """Milliseconds an image of the step of a plan without augmentation; 0 where it is not known."""
        time = self.times.get(plan.candidate) or self.times.get(replace(plan.candidate, compile=False))
        return time.quick_ms / time.batch_size if time else 0.0

    def _loader(self, plan: Plan) -> OrderedLoader:
        cached = plan.cache != "none" and self.cache is not None
        dataset = self.sample.cached(self.cache) if cached and self.cache else self.sample.dataset
        return make_loader(dataset, self.shape.batch_size, plan.workers, self.device, plan.cache == "device")

    def _step(self, plan: Plan) -> TrainingStep:
        """The step of a plan; on a CPU eager, because compiling it may take many minutes."""
        candidate = plan.candidate
        if self.device.type == "cpu":
            candidate = replace(candidate, compile=False)
        compiled = plan.compile_augmentation
        if compiled not in self._augmentations:
            self._augmentations[compiled] = build_augmentation(self.shape, compiled)
        return TrainingStep(self.shape, candidate, self._augmentations[compiled])

    def _as_compiled(self, plan: Plan, timing: Timing) -> Timing:
        if not plan.candidate.compile or self.device.type != "cpu":
            return timing
        eager, compiled = (
            self.times.get(replace(plan.candidate, compile=False)),
            self.times.get(plan.candidate),
        )
        if eager is None or compiled is None:
            self.notes.append(f"the step was timed eager, because it was not measured as {plan.candidate}")
            return timing
        return with_compiled_step(timing, compiled.quick_ms / eager.quick_ms)
