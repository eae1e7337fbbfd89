"""A training examined: loader, step, and both together, as configured and as seems better."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import torch

from ...data.batch import Batch
from ...data.images.cache import ImageCache
from ...data.images.choose_cache import CACHE_MODES, CachePlan
from ...data.loading.ordered import Loading, OrderedLoader
from ...data.module import DetectionDataModule
from ...system.cores import usable_cores
from ...system.processor import processor_facts
from ...training.compilation import CompileOption, compiler_obstacle, decide_compilation
from ...training.ema import ExponentialMovingAverage
from ...training.module import YOLOv5
from ...training.precision import Precision
from ..bottleneck import LOSS_THRESHOLD
from .images import (
    MOST_IMAGES,
    ImageCost,
    LoaderRate,
    TrainingSample,
    batches_ahead,
    batches_at_once,
    endless,
    measure_copy,
    measure_images,
    measure_loader,
)
from .plan import (
    LEAST_GAIN,
    TIE,
    Findings,
    Form,
    Plan,
    StepTime,
    Timing,
    eager_forms,
    fastest,
    is_worthwhile,
    judge,
)
from .report import Report
from .short_training import ShortTraining, StepClock

COMPILE_SECONDS = 300.0
"""Time limit from which on the doctor compiles a network on a CPU, which takes minutes."""
_SAMPLE_S = 4.0
"""Time for decoding the sample, about."""
_STEPS_S = 16.0
"""Time for measuring the forms of the step, about."""
_BUSY = 0.1
"""Part of the time that threads of this process may wait for a core before the figures count as rough."""


class Examination:
    """Measures a training as it is configured, and the options that could make it faster.

    Args:
        module: the user's module; its network is not built.
        data: the user's data module, with its indices; no cache is built.
        precision: precision of the training.
        device: device of the training.
        ema: averaging of the weights.
        announce: called with a line before each measurement.
        seconds: time for all measurements, about; compiling comes on top.
    """

    def __init__(
        self,
        module: YOLOv5,
        data: DetectionDataModule,
        precision: Precision,
        device: torch.device,
        ema: ExponentialMovingAverage,
        announce: Callable[[str], None],
        seconds: float,
    ) -> None:
        self.module, self.data, self.device, self.ema = module, data, device, ema
        self.announce, self.seconds, self.scale = announce, seconds, seconds / 60
        self.on_cuda = device.type == "cuda"
        self.notes: list[str] = []
        train, val = data.index("train"), data.index("val")
        self.most_labels = max(train.most_labels, val.most_labels)
        cores = usable_cores()
        self.cache_plan = CachePlan({"train": train, "val": val}, data.image_size, device, cores, data.cache)
        compilation = decide_compilation(module.compile_option, device.type, precision)
        compiled = compilation.mode or ("augmentation" if compilation.augmentation else False)
        form = Form(precision, module.channels_last, cast(CompileOption, compiled))
        workers = self.cache_plan.worker_count("train", data.num_workers)
        self.now = Plan(self.cache_plan.choice.mode, workers, form)
        self.sample: TrainingSample
        self.cache: ImageCache | None = None
        self.training: ShortTraining

    def run(self) -> Report:
        """Measure everything; nothing of the user's is changed or built."""
        data, copy_gb_per_s = self.data, measure_copy(self.device)
        waited_s, began_s = _waited_for_cores_s(), time.perf_counter()
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng([]))  # starting workers draws a number
            self.announce("reading and decoding images of the training set")
            cost = self._draw_sample()
            self.training = self._short_training()
            times = self._time_forms(self._resident_batch())
            better = self._better_plan(times)
            if {self.now.cache, better.cache} != {"none"}:
                self.cache = stack.enter_context(self.sample.memory_cache())
            findings = self._compare(better, times, copy_gb_per_s)
        if _waited_for_cores_s() - waited_s > _BUSY * (time.perf_counter() - began_s):
            self.notes.append("other programs used the cores meanwhile: the figures are rough")
        self._note_cost(cost, findings)
        batches = -(-len(data.index("train")) // data.batch_size)
        return Report(
            machine=describe_machine(self.device),
            network=f"{self.module.architecture}, batches of {data.batch_size} x {data.image_size} px",
            images=batches * data.batch_size,
            image_cost=cost,
            steps=times,
            copy_gb_per_s=copy_gb_per_s,
            now=findings.now,
            now_timing=findings.now_timing,
            better=findings.better,
            better_timing=findings.better_timing,
            verdict=judge(findings),
            notes=self.notes,
        )

    # Images

    def _draw_sample(self) -> ImageCost:
        """Draw as many images as can be decoded in a few seconds, and measure the cost of one."""
        train, size = self.data.index("train"), self.data.image_size
        first = TrainingSample(train, size, self.most_labels, MOST_IMAGES)
        cost = measure_images(first, 3.0 * self.scale)
        image_s = (cost.read_ms + cost.decode_ms) / 1000 / self.cache_plan.cores
        images = max(self.data.batch_size, int(_SAMPLE_S * self.scale / image_s))
        self.sample = TrainingSample(train, size, self.most_labels, min(MOST_IMAGES, images))
        return cost

    def _loader(self, plan: Plan, batch_size: int) -> OrderedLoader:
        cache = self.cache if plan.cache != "none" else None
        return self.sample.loader(batch_size, plan.workers, self.device, cache, plan.cache == "device")

    def _load(self, plan: Plan, seconds: float) -> LoaderRate:
        """Measure the loader of a plan by itself."""
        self.announce(f"loading alone: cache {plan.cache}, {plan.workers} workers")
        loader = self._loader(plan, self.data.batch_size)
        try:
            return measure_loader(loader, self.data.batch_size, self.device, seconds * self.scale)
        finally:
            loader.close()

    # The step

    def _resident_batch(self) -> Batch:
        """Make a batch of the sample that stays on the device, in memory of its own."""
        loader = self._loader(Plan("none", 0, self.now.form), self.training.batch_size)
        batch = Batch(*(tensor.clone() for tensor in next(iter(loader))))
        loader.close()
        if self.on_cuda:
            torch.cuda.synchronize(self.device)  # the augmentation reads it on another stream
        return batch

    def _short_training(self) -> ShortTraining:
        """Prepare to train on whole batches, or, on a CPU, on as many images as leave time for all forms."""
        training = ShortTraining(self.module, self.data, self.data.batch_size, self.device, self.ema)
        if self.on_cuda:
            return training
        self.announce("measuring how long the training step takes on one image")
        self.training = ShortTraining(self.module, self.data, 1, self.device, self.ema)
        probe = self.training.time_step(self.now.form._replace(compile=False), self._resident_batch(), 0.0)
        # Warm-up and two bursts of each of about four forms.
        affordable = _STEPS_S * self.scale * 1000 / (4 * 4 * training.accumulate * probe.median_ms)
        least = min(self.data.batch_size, self.cache_plan.cores)  # fewer would leave threads idle
        while training.batch_size > max(least, affordable):
            training.batch_size = max(least, training.batch_size // 2)
        return training

    def _time_forms(self, batch: Batch) -> list[StepTime]:
        """Time the forms without a compiled network, and the best of them with it."""
        present = self.now.form
        can_compile = compiler_obstacle(self.device.type) is None
        forms = eager_forms(str(self.device), "augmentation" if can_compile else False)
        self.announce(f"measuring the training step in {len({*forms, present})} forms")
        seconds = _STEPS_S * self.scale / (2 * len(forms))  # half of it is left to the warm-up
        times = [self.training.time_step(form, batch, seconds) for form in forms]
        if present not in forms:
            times.append(self.training.time_step(present, batch, seconds))
        best = fastest([time for time in times if not time.form.compiles_network], self.on_cuda)
        if best is None or not can_compile:
            return times
        compiled = best.form._replace(compile="default")
        if not (self.on_cuda or self.seconds >= COMPILE_SECONDS):
            self.notes.append(
                "the compiled network was not measured, because compiling takes minutes on a CPU; "
                f"--seconds {COMPILE_SECONDS:.0f} measures it"
            )
        elif compiled not in {time.form for time in times}:
            self.announce("compiling the network, which may take minutes")
            times.append(self.training.time_step(compiled, batch, seconds))
        return times

    # Both together

    def _better_plan(self, times: list[StepTime]) -> Plan:
        """Take the fastest cache that fits and the fastest form, unless the present ones are as fast."""
        better = self.now
        best = fastest(times, self.on_cuda)
        present = next(time for time in times if time.form == self.now.form)
        if best is not None and not present.median_ms <= (1 + TIE) * best.median_ms:
            better = better._replace(form=best.form)
        choice = self.cache_plan.fastest_fitting
        if CACHE_MODES.index(choice.mode) <= CACHE_MODES.index(self.now.cache):
            return better
        self.cache_plan.choice = choice
        return better._replace(cache=choice.mode, workers=self.cache_plan.worker_count("train", "auto"))

    def _train(self, plan: Plan, loader_ms: float, step: StepTime, seconds: float) -> Timing:
        """Measure a plan with loader and step together."""
        self.announce(
            f"loading and training together: cache {plan.cache}, {plan.workers} workers, {plan.form}"
        )
        loader = self._loader(plan, self.training.batch_size)
        batches = endless(loader)
        burst = batches_at_once(loader)
        clock = StepClock(seconds * self.scale, 2 + batches_ahead(loader) + burst, burst)
        try:
            self.training.train(plan.form, batches, clock)
        finally:
            batches.close()
            loader.close()
        together_ms = statistics.median(clock.burst_ms) / self.training.batch_size
        return Timing(loader_ms, step.image_ms, together_ms)

    def _compare(self, better: Plan, times: list[StepTime], copy_gb_per_s: float | None) -> Findings:
        """Measure the configured plan, the better one, and other numbers of workers where no cache helps."""
        now, cores = self.now, self.cache_plan.cores
        steps = {time.form: time for time in times}
        rate = self._load(now, 5.0)
        loader_ms = better_ms = 1000 / rate.images_per_second
        if (better.cache, better.workers) != (now.cache, now.workers):
            better_ms = 1000 / self._load(better, 3.0).images_per_second
            if not is_worthwhile(loader_ms, better_ms, steps[better.form].image_ms, self.on_cuda):
                better, better_ms = better._replace(cache=now.cache, workers=now.workers), loader_ms
        now_timing = timing = self._train(now, loader_ms, steps[now.form], 8.0)
        if better != now:
            timing = self._train(better, better_ms, steps[better.form], 8.0)
        waits = 1 - timing.step_ms / timing.together_ms > LOSS_THRESHOLD
        if (
            better.cache == now.cache
            and waits
            and is_worthwhile(loader_ms, 0.0, timing.step_ms, self.on_cuda)
        ):
            for workers in sorted({0, cores, 2 * cores} - {now.workers}):
                other = better._replace(workers=workers)
                other_ms = 1000 / self._load(other, 2.0).images_per_second
                found = self._train(other, other_ms, steps[other.form], 5.0)
                if found.together_ms * LEAST_GAIN < timing.together_ms:
                    better, timing = other, found
        fitting = self.cache_plan.fastest_fitting.mode
        loading = Loading(
            now.cache, now.workers, cores, rate.read_fraction, None if fitting == "none" else fitting
        )
        image_gb = 3 * self.data.image_size**2 / 1e9
        copy_ms = 1000 * image_gb / copy_gb_per_s if copy_gb_per_s else 0.0
        return Findings(self.on_cuda, now, now_timing, better, timing, loading, copy_ms)

    def _note_cost(self, cost: ImageCost, findings: Findings) -> None:
        now, plan = self.now, self.cache_plan
        cold_ms = (cost.cold_read_ms + cost.decode_ms) / plan.cores
        stays = now.cache == "none" and self.sample.stays_in_memory
        if stays and cold_ms > 2 * findings.now_timing.together_ms:
            self.notes.append(
                f"the first epoch reads the files from the disk, {cost.cold_read_ms:.0f} ms each; they stay "
                "in memory then"
            )
        if findings.better.cache != now.cache:
            seconds = cold_ms * sum(map(len, plan.indices.values())) / 1000
            self.notes.append(
                f"filling the cache reads and decodes each image once, in about {seconds:.0f} s"
            )
        elif now.cache == "none" and plan.fastest_fitting.mode == "none":
            self.notes.append("no cache has room for the decoded images")


def describe_machine(device: torch.device) -> str:
    """Name of the device and version of torch; for a CPU also cores and threads."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} | torch {torch.__version__}"
    count = f"{usable_cores()} cores, {torch.get_num_threads()} threads"
    return f"{processor_facts().get('model name', 'CPU')} | {count} | torch {torch.__version__}"


def _waited_for_cores_s(tasks: Path = Path("/proc/self/task")) -> float:
    """Sum the time that this process's threads have waited for a core; NaN without Linux."""
    waited_ns = 0
    try:
        for task in tasks.iterdir():
            try:
                waited_ns += int((task / "schedstat").read_text().split()[1])
            except FileNotFoundError:  # the thread has ended
                continue
    except (OSError, IndexError, ValueError):
        return math.nan
    return waited_ns / 1e9
