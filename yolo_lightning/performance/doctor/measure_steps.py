"""One training step on a batch that stays where it is: how long it takes, and whether its loss is right."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...data.augment import Augmentation
from ...data.batch import Batch
from ...system.text import first_line
from ...training.step import Prepared
from .bare_step import TrainingStep, build_augmentation, prepare, synthetic_batch
from .busy_machine import Disturbance, is_disturbed, threads
from .candidates import Candidate, StepShape, StepTime

SLOW_STEP_S = 2.0
"""A step that takes longer is repeated a few times only."""
_LEAST_ROUNDS, _MOST_ROUNDS = 3, 40
_PROBE_STEPS = 4
Clock = Callable[[], float]
"""Tells the time in s."""
_CUDA_ROUND_S = 0.2
"""On CUDA steps are launched without waiting for this long, as in training."""


def measure_steps(
    shape: StepShape, candidates: Sequence[Candidate], *, budget_s: float = 8.0
) -> list[StepTime]:
    """Time candidates without augmentation, in turn and round after round on a CPU.

    So whatever else the machine does from second to second falls on all alike. Where other programs
    hold the cores, one thread is used, and its CPU time counts instead of the time on the wall;
    where steps are slow, fewer images than the shape has. On CUDA, where the memory of several
    might not suffice, one candidate follows the other.

    Args:
        shape: of the step.
        candidates: those to measure; one that fails does not keep others from being measured.
        budget_s: about how long all may take; three rounds are made in any case, two of slow steps.

    Returns:
        One result a candidate, in their order.
    """
    if shape.device_type == "cpu":
        return _measure_on_cpu(shape, candidates, budget_s)
    prepared = prepare(shape, synthetic_batch(shape))
    found: list[StepTime] = []
    for candidate in candidates:
        contender = _Contender(shape, candidate, prepared)
        found += _measure([contender], budget_s / len(candidates))
        if shape.device_type == "cuda":
            torch.cuda.empty_cache()
    return found


def _measure_on_cpu(shape: StepShape, candidates: Sequence[Candidate], budget_s: float) -> list[StepTime]:
    busy, image_s = _probe(shape)
    rounds = 2 + _LEAST_ROUNDS  # the first two are not timed
    images = shape.batch_size
    while images > 1 and len(candidates) * rounds * images * image_s > budget_s:
        images = (images + 1) // 2
    smaller = replace(shape, batch_size=images)
    prepared = prepare(smaller, synthetic_batch(smaller))
    clock = time.process_time if busy else time.perf_counter
    with threads(1 if busy else torch.get_num_threads()):
        found = _measure([_Contender(smaller, c, prepared, clock) for c in candidates], 0.6 * budget_s)
    return [replace(result, on_busy_machine=busy) for result in found]


def _probe(shape: StepShape) -> tuple[bool, float]:
    """Whether other programs hold the cores, and about how long training on an image takes, in s."""
    one = replace(shape, batch_size=1)
    step, data = TrainingStep(one, Candidate("32-true", False, False)), prepare(one, synthetic_batch(one))
    step(data)
    disturbance = Disturbance()
    times_ms = time_steps(partial(step, data), time.perf_counter, _PROBE_STEPS)
    if not is_disturbed(disturbance.fraction()):
        return False, min(times_ms) / 1000
    with threads(1):
        return True, min(time_steps(partial(step, data), time.perf_counter, _PROBE_STEPS)) / 1000


def measure_step(
    shape: StepShape,
    candidate: Candidate,
    *,
    augment: bool = False,
    compile_augmentation: bool = False,
    budget_s: float = 4.0,
) -> StepTime:
    """Time one candidate, with the augmentation if ``augment``, and that compiled if so wished.

    If anything was compiled, torch.compile forgets afterwards all that it compiled in this process.
    """
    try:
        if not augment:
            return measure_steps(shape, [candidate], budget_s=budget_s)[0]
        augmentation = build_augmentation(shape, compile_augmentation)
        contender = _Contender(shape, candidate, synthetic_batch(shape), augmentation=augmentation)
        return _measure([contender], budget_s)[0]
    finally:
        if candidate.compile or (augment and compile_augmentation):
            torch.compiler.reset()
        if shape.device_type == "cuda":
            torch.cuda.empty_cache()


class _Contender:
    """A candidate while it is measured; once it has failed, its rounds do nothing."""

    def __init__(
        self,
        shape: StepShape,
        candidate: Candidate,
        data: Batch | Prepared,
        clock: Clock = time.perf_counter,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.result = StepTime(candidate, shape.batch_size)
        self.device = torch.device(shape.device)
        self.clock = clock
        self.samples_ms: list[float] = []
        self.first_s = 0.0
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._start_bytes = torch.cuda.memory_allocated(self.device)
        with self._noting_failure():
            step = TrainingStep(shape, candidate, augmentation)
            self.step: Callable[[], Tensor] = partial(step, data)
            self.result = replace(self.result, loss=float(self.step()))
            self.first_s = self._time(1)[0] / 1000  # the one before warmed up

    @contextmanager
    def _noting_failure(self) -> Any:
        try:
            yield
        except RuntimeError as error:  # out of memory, or an operation that a precision does not have
            self.result = replace(self.result, failure=first_line(error))
            self.step = lambda: torch.tensor(0.0)

    def round(self) -> None:
        """One step more, on CUDA as many as make a fair pipeline."""
        if self.result.failure is None:
            on_cuda = self.device.type == "cuda"
            count = min(20, max(1, round(_CUDA_ROUND_S / max(self.first_s, 1e-4)))) if on_cuda else 1
            with self._noting_failure():
                self.samples_ms += self._time(count)

    def _time(self, count: int) -> list[float]:
        if self.device.type == "cuda":
            return time_cuda_steps(self.step, self.device, count)
        return time_steps(self.step, self.clock, count)

    def finish(self) -> StepTime:
        """The result, after the rounds."""
        if self.result.failure is None:
            low, middle, high = quartiles(self.samples_ms)
            last_loss, peak = float(self.step()), None
            if self.device.type == "cuda":
                peak = torch.cuda.max_memory_allocated(self.device) - self._start_bytes
            self.result = replace(
                self.result,
                median_ms=middle,
                quick_ms=low,
                spread_ms=high - low,
                repetitions=len(self.samples_ms),
                last_loss=last_loss,
                peak_bytes=peak,
            )
        return self.result


def _measure(contenders: Sequence[_Contender], budget_s: float) -> list[StepTime]:
    began = time.perf_counter()  # not earlier: warming up may have compiled for minutes
    is_slow = max(contender.first_s for contender in contenders) > SLOW_STEP_S
    for done in range(_MOST_ROUNDS):
        if done >= (2 if is_slow else _LEAST_ROUNDS) and time.perf_counter() - began > budget_s:
            break
        for contender in contenders:
            contender.round()
    return [contender.finish() for contender in contenders]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of one number or more."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def time_steps(step: Callable[[], Any], clock: Clock, count: int) -> list[float]:
    """Durations of ``count`` steps on a CPU, in ms."""
    ends = [clock()]
    for _ in range(count):
        step()
        ends.append(clock())
    return [1000 * (after - before) for before, after in itertools.pairwise(ends)]


def time_cuda_steps(step: Callable[[], Any], device: torch.device, count: int) -> list[float]:
    """Durations of ``count`` steps on CUDA in ms, from the end of one to the end of the next."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) for before, after in itertools.pairwise(events)]
