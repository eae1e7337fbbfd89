"""A training examined: loader, step, and both together, as configured and as seems better."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import NamedTuple, cast

import torch

from ...data.annotations.index import DatasetIndex
from ...data.annotations.source import Split
from ...data.batch import Batch
from ...data.image_size import describe
from ...data.images.cache import ImageCache
from ...data.images.choose_cache import CACHE_MODES, CachePlan
from ...data.loading.ordered import Loading, OrderedLoader
from ...data.module import DetectionDataModule
from ...model.architecture import short_name
from ...system.core_time import waited_s
from ...system.cores import usable_cores
from ...system.environment import processor_facts
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
    endless,
    measure_copy,
    measure_images,
    measure_loader,
)
from .plan import (
    LEAST_GAIN,
    TIE,
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
_SAMPLE_S = 4.0  # about the time for decoding the sample
_STEPS_S = 16.0  # about the time for measuring the forms of the step
_BUSY = 0.1
"""Part of the time that threads of this process may wait for a core before the figures count as rough."""


class _Comparison(NamedTuple):
    now_timing: Timing
    better: Plan
    better_timing: Timing
    read_fraction: float  # of the configured loader


class Examination:
    """Measures a training as it is configured, and the options that could make it faster.

    The arguments are those of ``cli.doctor.diagnose``; the data module has read its indices.
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
        self.indices: dict[Split, DatasetIndex] = {"train": data.index("train"), "val": data.index("val")}
        self.cores = usable_cores()
        self.cache_plan = CachePlan(self.indices, data.canvas, device, self.cores, data.cache)
        compilation = decide_compilation(module.compile_option, device.type, precision)
        compiled = compilation.mode or ("augmentation" if compilation.augmentation else False)
        form = Form(precision, module.channels_last, cast(CompileOption, compiled))
        workers = self.cache_plan.worker_count("train", data.num_workers)
        self.now = Plan(self.cache_plan.choice.mode, workers, form)
        self.cache: ImageCache | None = None

    def run(self) -> Report:
        """Measure everything; nothing of the user's is changed or built."""
        data, now, copy_gb_per_s = self.data, self.now, measure_copy(self.device)
        waited, began_s = waited_s(), time.perf_counter()
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng([]))  # starting workers draws a number
            self.announce("reading and decoding images of the training set")
            cost = self._draw_sample()
            self.training = self._short_training()
            times = self._time_forms(self._resident_batch(self.training.batch_size))
            better = self._better_plan(times)
            if {now.cache, better.cache} != {"none"}:
                self.cache = stack.enter_context(self.sample.memory_cache())
            compared = self._compare(better, times)
        if (waited_s() or 0.0) - (waited or 0.0) > _BUSY * (time.perf_counter() - began_s):
            self.notes.append("other programs used the cores meanwhile: the figures are rough")
        self._note_cost(cost, compared.now_timing, compared.better)
        fitting = self.cache_plan.fastest_fitting.mode
        fits = None if fitting == "none" else fitting
        loading = Loading(now.cache, now.workers, self.cores, compared.read_fraction, fits)
        copy_ms = 3 * math.prod(data.canvas) / 1e6 / copy_gb_per_s if copy_gb_per_s else 0.0
        return Report(
            machine=describe_machine(self.device),
            network=f"{short_name(self.module.architecture)}, "
            f"batches of {data.batch_size} x {describe(data.canvas)}",
            images=-(-len(self.indices["train"]) // data.batch_size) * data.batch_size,
            image_cost=cost,
            steps=times,
            copy_gb_per_s=copy_gb_per_s,
            now=now,
            now_timing=compared.now_timing,
            better=compared.better,
            better_timing=compared.better_timing,
            verdict=judge(
                now=now,
                now_timing=compared.now_timing,
                better=compared.better,
                better_timing=compared.better_timing,
                loading=loading,
                copy_ms=copy_ms,
                on_cuda=self.on_cuda,
            ),
            notes=self.notes,
        )

    def _draw_sample(self) -> ImageCost:
        """Draw as many images as can be decoded in a few seconds, and measure the cost of one."""
        train, size = self.indices["train"], self.data.canvas
        most_labels = max(index.most_labels for index in self.indices.values())
        cost = measure_images(TrainingSample(train, size, most_labels, MOST_IMAGES), 3.0 * self.scale)
        image_s = (cost.read_ms + cost.decode_ms) / 1000 / self.cores
        images = max(self.data.batch_size, int(_SAMPLE_S * self.scale / image_s))
        self.sample = TrainingSample(train, size, most_labels, min(MOST_IMAGES, images))
        return cost

    def _loader(self, plan: Plan, batch_size: int) -> OrderedLoader:
        cache = self.cache if plan.cache != "none" else None
        return self.sample.loader(batch_size, plan.workers, self.device, cache, plan.cache == "device")

    def _load(self, plan: Plan, seconds: float) -> LoaderRate:
        self.announce(f"loading alone: {plan.loader()}")
        with closing(self._loader(plan, self.data.batch_size)) as loader:
            return measure_loader(loader, seconds * self.scale)

    def _resident_batch(self, batch_size: int) -> Batch:
        """Make a batch of the sample that stays on the device, in memory of its own."""
        with closing(self.sample.loader(batch_size, 0, self.device)) as loader:
            batch = next(iter(loader)).map(torch.clone)
        if self.on_cuda:
            torch.cuda.synchronize(self.device)  # the augmentation reads it on another stream
        return batch

    def _short_training(self) -> ShortTraining:
        """Prepare to train on whole batches, or, on a CPU, on as many images as leave time for all forms."""
        training = ShortTraining(self.module, self.data, self.data.batch_size, self.device, self.ema)
        if self.on_cuda:
            return training
        self.announce("measuring how long the training step takes on an image")
        # One image of 32 px, which multi_scale makes of one of 64, leaves a batch norm a single value.
        few = min(2, self.data.batch_size)
        probe = ShortTraining(self.module, self.data, few, self.device, self.ema)
        probed = probe.time_step(self.now.form._replace(compile=False), self._resident_batch(few), 0.0)
        # Warm-up and two bursts of each of about four forms.
        affordable = _STEPS_S * self.scale * 1000 / (4 * 4 * training.accumulate * probed.image_ms)
        least = min(self.data.batch_size, max(few, self.cores))  # fewer would leave threads idle
        while training.batch_size > max(least, affordable):
            training.batch_size = max(least, training.batch_size // 2)
        return training

    def _time_forms(self, batch: Batch) -> list[StepTime]:
        """Time the forms without a compiled network, and the best of them with it."""
        present = self.now.form
        can_compile = compiler_obstacle(self.device.type) is None
        forms = eager_forms(str(self.device), "augmentation" if can_compile and self.on_cuda else False)
        seconds = _STEPS_S * self.scale / (2 * len(forms))  # half of it is left to the warm-up
        if present not in forms:
            forms.append(present)
        self.announce(f"measuring the training step in {len(forms)} forms")
        times = [self.training.time_step(form, batch, seconds) for form in forms]
        best = fastest([time for time in times if not time.form.compiles_network], self.on_cuda)
        if best is None or not can_compile:
            return times
        compiled = best.form._replace(compile="default")
        if not (self.on_cuda or self.seconds >= COMPILE_SECONDS):
            self.notes.append(
                "the compiled network was not measured, because compiling takes minutes on a CPU; "
                f"--seconds {COMPILE_SECONDS:.0f} measures it"
            )
        elif compiled not in forms:
            self.announce("compiling the network, which may take minutes")
            times.append(self.training.time_step(compiled, batch, seconds))
        return times

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
        self.announce(f"loading and training together: {plan}")
        with (
            closing(self._loader(plan, self.training.batch_size)) as loader,
            closing(endless(loader)) as batches,
        ):
            burst = max(1, loader.workers)  # workers that begin together end together
            clock = StepClock(seconds * self.scale, 2 + batches_ahead(loader) + burst, burst)
            self.training.train(plan.form, batches, clock)
        together_ms = statistics.median(clock.burst_ms) / self.training.batch_size
        return Timing(loader_ms, step.image_ms, together_ms)

    def _compare(self, better: Plan, times: list[StepTime]) -> _Comparison:
        """Measure the configured plan, the better one, and other numbers of workers where no cache helps."""
        now = self.now
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
        is_slow = waits and is_worthwhile(loader_ms, 0.0, timing.step_ms, self.on_cuda)
        if better.cache == now.cache and is_slow:
            for workers in sorted({0, self.cores, 2 * self.cores} - {now.workers}):
                other = better._replace(workers=workers)
                other_ms = 1000 / self._load(other, 2.0).images_per_second
                found = self._train(other, other_ms, steps[other.form], 5.0)
                if found.together_ms * LEAST_GAIN < timing.together_ms:
                    better, timing = other, found
        return _Comparison(now_timing, better, timing, rate.read_fraction)

    def _note_cost(self, cost: ImageCost, now_timing: Timing, better: Plan) -> None:
        now = self.now
        cold_ms = (cost.cold_read_ms + cost.decode_ms) / self.cores
        stays = now.cache == "none" and self.sample.stays_in_memory
        if stays and cold_ms > 2 * now_timing.together_ms:
            each = f"{cost.cold_read_ms:.0f} ms each"
            self.notes.append(
                f"the first epoch reads the files from the disk, {each}; they stay in memory then"
            )
        if better.cache != now.cache:
            seconds = f"{cold_ms * sum(map(len, self.indices.values())) / 1000:.0f} s"
            self.notes.append(f"filling the cache reads and decodes each image once, in about {seconds}")
        elif now.cache == "none" and self.cache_plan.fastest_fitting.mode == "none":
            self.notes.append("no cache has room for the decoded images")


def describe_machine(device: torch.device) -> str:
    """Name of the device and version of torch; for a CPU also cores and threads."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} | torch {torch.__version__}"
    count = f"{usable_cores()} cores, {torch.get_num_threads()} threads"
    return f"{processor_facts().get('model name', 'CPU')} | {count} | torch {torch.__version__}"
