"""A training examined: loader, step, and both together, as configured and as seems better."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal

import torch

from ...data.annotations.index import DatasetIndex
from ...data.images.choose_cache import CACHE_MODES, CachePlan
from ...training.compilation import CompileOption, compiler_obstacle, decide_compilation
from ..auto.choose import TIE, Wish, decide, eager_candidates, select
from ..auto.store import Measured, Store, machine
from .busy_machine import Disturbance, is_disturbed
from .candidates import Candidate, StepShape, StepTime
from .loading import ImageCost, measure_copy, measure_images
from .measure_compiled import at_the_speed_of, measure_compiled
from .measure_steps import measure_steps
from .report import Report
from .sample import MOST_IMAGES, TrainingSample
from .trial import Trial
from .verdict import LOSS_THRESHOLD, Findings, Plan, judge, pays

_SAMPLE_S = 4.0
"""About how long decoding the sample may take."""
_COMPILE_S = {"cpu": 20.0, "cuda": 120.0}
"""How long compiling may take, in an examination of a minute."""


@dataclass(frozen=True)
class Case:
    """A training as it is configured."""

    shape: StepShape
    """Of the step, as the choice of ``auto`` is stored for it."""
    wish: Wish
    """What the user fixed of the step."""
    compile_option: CompileOption
    train: DatasetIndex
    most_labels: int
    """Of an image, in all splits of the training."""
    cache_plan: CachePlan
    """Of the decoded images, as the options have it."""
    num_workers: int | Literal["auto"]


class Examination:
    """One examination of a case.

    Args:
        case: the training.
        store: where results of steps are kept.
        announce: is told what is being measured.
        seconds: about how long all may take.
    """

    def __init__(self, case: Case, store: Store, announce: Callable[[str], None], seconds: float) -> None:
        self.case, self.store, self.announce = case, store, announce
        self.device = torch.device(case.shape.device)
        self.scale = seconds / 60
        self.notes: list[str] = []
        self.copy_gb_per_s = measure_copy(self.device)
        self._compiles = compiler_obstacle(self.device.type) is None

    def run(self) -> Report:
        """Measure everything; nothing of the user's is changed or built."""
        shape = self.case.shape
        self.announce("reading and decoding images of the training set")
        sample, cost = self._sample()
        known = self._measure_candidates()
        now = self._plan_now(known)
        better = self._better_plan(now, known)
        disturbance = Disturbance()
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng([]))  # starting workers draws a number
            caches = {now.cache, better.cache} != {"none"}
            cache = stack.enter_context(sample.memory_cache()) if caches else None
            times = [each.time for each in known]
            trial = Trial(shape, sample, cache, times, self.announce, self.scale)
            findings = self._compare(trial, now, better)
        self._note(sample, cost, findings, is_disturbed(disturbance.fraction()))
        batches = -(-len(self.case.train) // shape.batch_size)
        return Report(
            machine=machine(shape.device),
            network=f"{shape.architecture}, batches of {shape.batch_size} x {shape.image_size} px",
            images=batches * shape.batch_size,
            image_cost=cost,
            candidates=[each.time for each in known],
            copy_gb_per_s=self.copy_gb_per_s,
            now=findings.now,
            now_timing=findings.now_timing,
            better=findings.better,
            better_timing=findings.better_timing,
            verdict=judge(findings),
            notes=self.notes,
        )

    def _sample(self) -> tuple[TrainingSample, ImageCost]:
        """As many images as can be decoded in a few seconds, and what each costs."""
        size, most, train = self.case.shape.image_size, self.case.most_labels, self.case.train
        cost = measure_images(TrainingSample(train, size, most, MOST_IMAGES), 3.0 * self.scale)
        image_s = (cost.read_ms + cost.decode_ms) / 1000 / self.case.cache_plan.cores
        images = int(_SAMPLE_S * self.scale / image_s)
        return TrainingSample(
            train, size, most, min(MOST_IMAGES, max(self.case.shape.batch_size, images))
        ), cost

    # The step

    def _measure_candidates(self) -> list[Measured]:
        """Time the eager candidates, and the best of them compiled."""
        shape, wish = self.case.shape, self.case.wish
        asked = eager_candidates(shape.device)
        if wish.precision and not any(c.precision == wish.precision for c in asked):
            asked.append(Candidate(wish.precision, wish.channels_last is not False, False))
        self.announce(f"measuring the training step in {len(asked)} forms")
        before = self.store.read(shape)
        times = measure_steps(shape, asked, budget_s=8.0 * self.scale)
        best = select(times, shape.device_type)
        if best is not None and self._compiles:
            times.append(self._measure_compiled(best, before))
        kept = self.store.add(shape, [time for time in times if not time.failure])
        dates = {each.time.candidate: each.date for each in kept}
        return [Measured(time, dates.get(time.candidate, "")) for time in times]

    def _measure_compiled(self, eager: StepTime, before: list[Measured]) -> StepTime:
        """From what an earlier examination found, or anew."""
        known = {each.time.candidate: each.time for each in before if not each.time.failure}
        compiled, old = known.get(replace(eager.candidate, compile=True)), known.get(eager.candidate)
        if compiled is not None and old is not None:
            return at_the_speed_of(eager, old, compiled)
        deadline_s = _COMPILE_S[self.device.type] * self.scale
        self.announce(f"compiling the network, for {deadline_s:.0f} s at most")
        found = measure_compiled(self.case.shape, eager, deadline_s=deadline_s, budget_s=6.0 * self.scale)
        if found.failure:
            self.notes.append(
                f"the compiled step was not measured ({found.failure}); give the doctor more --seconds"
            )
        return found

    def _plan_now(self, known: list[Measured]) -> Plan:
        """What ``fit`` would do."""
        case = self.case
        candidate = decide(known, case.wish, case.shape).candidate
        compilation = decide_compilation(case.compile_option, self.device.type, candidate.precision)
        workers = case.cache_plan.worker_count("train", case.num_workers)
        return Plan(case.cache_plan.choice.mode, workers, candidate, compilation.augmentation)

    def _better_plan(self, now: Plan, known: list[Measured]) -> Plan:
        """The fastest cache that fits, and the fastest step; the present ones where they are no slower."""
        times = {each.time.candidate: each.time for each in known}
        best, present = select([*times.values()], self.case.shape.device_type), times.get(now.candidate)
        candidate = now.candidate
        if best is not None and not (present is not None and present.quick_ms <= (1 + TIE) * best.quick_ms):
            candidate = best.candidate
        compiled = now.compile_augmentation or self._compiles
        better = now._replace(candidate=candidate, compile_augmentation=compiled)
        cache_plan, choice = self.case.cache_plan, self.case.cache_plan.fastest_fitting
        if CACHE_MODES.index(choice.mode) <= CACHE_MODES.index(now.cache):
            return better
        cache_plan.choice = choice
        return better._replace(cache=choice.mode, workers=cache_plan.worker_count("train", "auto"))

    def _compare(self, trial: Trial, now: Plan, better: Plan) -> Findings:
        on_cuda = self.device.type == "cuda"
        rate = trial.load(now, 6.0)
        loader_ms = better_loader_ms = 1000 / rate.images_per_second
        if (better.cache, better.workers) != (now.cache, now.workers):
            better_loader_ms = 1000 / trial.load(better, 3.0).images_per_second
            if not pays(loader_ms, better_loader_ms, trial.step_ms(better), on_cuda):
                better = better._replace(cache=now.cache, workers=now.workers)
                better_loader_ms = loader_ms
        if better == now:
            timings = trial.train([now], [loader_ms], 12.0) * 2
        else:
            timings = trial.train([now, better], [loader_ms, better_loader_ms], 9.0)
        now_timing, timing = timings
        waits = 1 - timing.step_ms / timing.together_ms > LOSS_THRESHOLD
        if better.cache == now.cache and waits and pays(loader_ms, 0.0, timing.step_ms, on_cuda):
            cores = self.case.cache_plan.cores
            counts = sorted({0, cores, 2 * cores} - {now.workers})
            better, timing = trial.try_workers(better, timing, counts)
        self.notes += trial.notes
        return Findings(
            on_cuda=on_cuda,
            now=now,
            now_timing=now_timing,
            better=better,
            better_timing=timing,
            read_fraction=rate.read_fraction,
            copy_ms=self._copy_ms(),
        )

    def _copy_ms(self) -> float:
        """Milliseconds an image takes to the device."""
        size = self.case.shape.image_size
        return 3 * size * size / 1e6 / self.copy_gb_per_s if self.copy_gb_per_s else 0.0

    def _note(self, sample: TrainingSample, cost: ImageCost, findings: Findings, is_busy: bool) -> None:
        cache_plan, now = self.case.cache_plan, findings.now
        if is_busy:
            self.notes.append("other programs used the cores meanwhile: the figures are rough")
        cold_ms = (cost.cold_read_ms + cost.decode_ms) / cache_plan.cores
        if now.cache == "none" and sample.stays_in_memory and cold_ms > 2 * findings.now_timing.together_ms:
            self.notes.append(
                f"the first epoch reads the files from the disk, {cost.cold_read_ms:.0f} ms each; they stay "
                "in memory then"
            )
        if findings.better.cache != now.cache:
            seconds = cold_ms * sum(map(len, cache_plan.indices.values())) / 1000
            self.notes.append(
                f"filling the cache reads and decodes each image once, in about {seconds:.0f} s"
            )
        elif now.cache == "none" and cache_plan.fastest_fitting.mode == "none":
            self.notes.append("no cache has room for the decoded images")
