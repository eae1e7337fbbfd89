"""A training examined: loader, step, and both together, as configured and as seems better."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal

import torch

from ...data.annotations.index import DatasetIndex
from ...data.images.choose_cache import CACHE_MODES, CachePlan
from ...system.cores import usable_cores
from ...system.processor import processor_facts
from ...training.compilation import CompileOption, compiler_obstacle, decide_compilation
from ...training.precision import Precision
from .busy_machine import Disturbance, is_disturbed
from .candidates import TIE, Candidate, StepShape, StepTime, eager_candidates, select
from .loading import ImageCost, measure_copy, measure_images
from .measure_steps import measure_step, measure_steps
from .report import Report
from .sample import MOST_IMAGES, TrainingSample
from .trial import Trial
from .verdict import LOSS_THRESHOLD, Findings, Plan, judge, pays

_SAMPLE_S = 4.0
"""About how long decoding the sample may take."""
COMPILE_SECONDS = 300.0
"""Time limit from which on the doctor compiles a network on a CPU, which takes minutes."""


@dataclass(frozen=True)
class Case:
    """A training as it is configured."""

    shape: StepShape
    """Shape of the step."""
    precision: Precision
    channels_last: bool
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
        announce: is told what is being measured.
        seconds: about how long all may take.
    """

    def __init__(self, case: Case, announce: Callable[[str], None], seconds: float) -> None:
        self.case, self.announce = case, announce
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
        now = self._plan_now()
        better = self._better_plan(now, known)
        disturbance = Disturbance()
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng([]))  # starting workers draws a number
            caches = {now.cache, better.cache} != {"none"}
            cache = stack.enter_context(sample.memory_cache()) if caches else None
            trial = Trial(shape, sample, cache, known, self.announce, self.scale)
            findings = self._compare(trial, now, better)
        self._note(sample, cost, findings, is_disturbed(disturbance.fraction()))
        batches = -(-len(self.case.train) // shape.batch_size)
        return Report(
            machine=describe_machine(shape.device),
            network=f"{shape.architecture}, batches of {shape.batch_size} x {shape.image_size} px",
            images=batches * shape.batch_size,
            image_cost=cost,
            candidates=known,
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

    def _measure_candidates(self) -> list[StepTime]:
        """Time the eager candidates, and the best of them compiled."""
        shape, present = self.case.shape, self._candidate_now()
        asked = eager_candidates(shape.device)
        if replace(present, compile=False) not in asked:
            asked.append(replace(present, compile=False))
        self.announce(f"measuring the training step in {len(asked)} forms")
        times = measure_steps(shape, asked, budget_s=8.0 * self.scale)
        best = select(times, shape.device_type)
        if best is None or not self._compiles:
            return times
        if self.device.type == "cpu" and not present.compile and self.scale < COMPILE_SECONDS / 60:
            self.notes.append(
                "the compiled network was not measured, because compiling takes minutes on a CPU; "
                f"--seconds {COMPILE_SECONDS:.0f} measures it"
            )
            return times
        self.announce("compiling the network, which may take minutes")
        compiled = replace(best.candidate, compile=True)
        return [*times, measure_step(shape, compiled, budget_s=6.0 * self.scale)]

    def _candidate_now(self) -> Candidate:
        case = self.case
        compilation = decide_compilation(case.compile_option, self.device.type, case.precision)
        return Candidate(case.precision, case.channels_last, compilation.mode is not None)

    def _plan_now(self) -> Plan:
        """What ``fit`` would do."""
        case = self.case
        compilation = decide_compilation(case.compile_option, self.device.type, case.precision)
        workers = case.cache_plan.worker_count("train", case.num_workers)
        return Plan(case.cache_plan.choice.mode, workers, self._candidate_now(), compilation.augmentation)

    def _better_plan(self, now: Plan, known: list[StepTime]) -> Plan:
        """The fastest cache that fits, and the fastest step; the present ones where they are no slower."""
        times = {time.candidate: time for time in known}
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


def describe_machine(device: str) -> str:
    """Name of the device and its version of torch; for a CPU also cores and threads."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)} | torch {torch.__version__}"
    count = f"{usable_cores()} cores, {torch.get_num_threads()} threads"
    return f"{processor_facts().get('model name', 'CPU')} | {count} | torch {torch.__version__}"
