"""Our training step on a batch that stays on the device: time, memory, operations and bytes."""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from yolo_lightning.data.batch import Batch, move, pack_labels
from yolo_lightning.performance.doctor.plan import Form
from yolo_lightning.performance.doctor.short_training import ShortTraining, StepClock
from yolo_lightning.performance.stalls import peak_memory_mb, reset_peak_memory
from yolo_lightning.training.ema import ExponentialMovingAverage
from yolo_lightning.training.module import YOLOv5
from yolo_lightning.training.optimizer import OptimizerConfig
from yolo_lightning.training.precision import Precision
from yolo_lightning.training.step import Prepared

from .. import arithmetic
from ..chips import Peaks, peaks_of
from ..options import parser
from ..pictures import LABEL_CAPACITY

CLASSES = 80
_COMPILED_BYTES = "read and written by the kernels that Inductor made, by its own count; optimizer apart"
_EAGER_BYTES = (
    "read and written by each eager operation, counted; that caches spare some is left out of account"
)
_COUNTS = (arithmetic.count_flops, arithmetic.count_bytes)


def measure(arguments: list[str]) -> dict[str, Any]:
    """Time one form of the step: network, loss, backward pass, clipping, optimizer and average.

    The package's own module and Trainer take it. Augmentation is not in it; with ``--ceiling`` the same step
    is timed once more with it.
    """
    given = _parser().parse_args(arguments)
    torch.set_float32_matmul_precision("high")  # as the command line does: TF32 where there is some
    precision: Precision = "bf16-mixed" if given.precision == "bf16" else "32-true"
    step = Step(given.architecture, given.size, given.batch, given.device, precision)
    flops, moved = step.count()
    torch._logging.set_logs(inductor_metrics=given.compile)  # it counts bytes for its log only
    try:
        reading = step.timed(given.compile, given.warm_up, given.steps)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # the counting may not work here; the step has to
        if not given.compile:
            raise
        print(f"once more, without counting bytes: {error}")
        torch._logging.set_logs()
        torch.compiler.reset()
        reading = step.timed(given.compile, given.warm_up, given.steps)
    reading |= {
        "precision": given.precision + (" (TF32 products)" if given.precision == "fp32" else ""),
        "compiled": given.compile,
        "batch_size": given.batch,
        **operations(flops, reading["ms"], given.precision, given.device),
        **traffic(compiled_bytes() if given.compile else moved, reading["ms"], given.device),
        "bytes_are": _COMPILED_BYTES if given.compile else _EAGER_BYTES,
    }
    if given.ceiling:
        augmenting = _EagerAugmentation if given.toy else YOLOv5
        reading["ceiling"] = step.timed(given.compile, given.warm_up, given.steps, augmenting)
    return reading


def _parser() -> argparse.ArgumentParser:
    options = parser()
    options.add_argument("--architecture", required=True)
    options.add_argument("--batch", type=int, required=True)
    options.add_argument("--precision", choices=("bf16", "fp32"), required=True)
    options.add_argument("--compile", action="store_true")
    options.add_argument("--ceiling", action="store_true")
    options.add_argument("--steps", type=int, required=True)
    options.add_argument("--warm-up", type=int, required=True)
    options.add_argument("--toy", action="store_true", help="leave the augmentation eager")
    return options


def operations(flops: int, ms: float, precision: str, device: str) -> dict[str, Any]:
    """What the products of a step come to a second, beside what the chip can do in that precision."""
    peaks = _peaks(device)
    peak = None if peaks is None else peaks.bf16_tflops if precision == "bf16" else peaks.tf32_tflops
    achieved = arithmetic.per_second(flops, ms, 1e12)
    return {
        "flops_a_step": flops,
        "tflops": achieved,
        "peak_tflops": peak,
        "fraction_of_peak_tflops": arithmetic.fraction(achieved, peak),
    }


def traffic(moved: float | None, ms: float, device: str) -> dict[str, Any]:
    """What is moved in a step, a second, beside what the chip's memory can do; nothing where not known."""
    if moved is None:
        return {"bytes_a_step": None}
    peaks = _peaks(device)
    peak = None if peaks is None else peaks.gb_per_second
    achieved = arithmetic.per_second(moved, ms, 1e9)
    return {
        "bytes_a_step": round(moved),
        "gb_per_second": achieved,
        "peak_gb_per_second": peak,
        "fraction_of_peak_gb_per_second": arithmetic.fraction(achieved, peak),
    }


def _peaks(device: str) -> Peaks | None:
    return peaks_of(torch.cuda.get_device_name()) if device == "cuda" else None


class Step:
    """The training step of the package on one batch, over and over.

    Args:
        architecture: as ``model.architecture``.
        size: S in px.
        batch: B.
        device: ``cuda`` or ``cpu``.
        precision: precision of the Trainer.
    """

    def __init__(self, architecture: str, size: int, batch: int, device: str, precision: Precision) -> None:
        self.device = torch.device("cuda:0" if device == "cuda" else "cpu")
        self.precision = precision
        # An optimizer step for each batch.
        self.module = YOLOv5(architecture, optimizer=OptimizerConfig(nominal_batch_size=batch))
        self.batch = synthetic_batch(batch, size, self.device)

    def timed(
        self, compile: bool, warm_up: int, steps: int, build: Callable[..., YOLOv5] | None = None
    ) -> dict[str, Any]:
        """Median of ``steps`` steps after ``warm_up``, and the memory peak of those alone.

        Args:
            compile: whether network and loss are compiled.
            warm_up: steps before.
            steps: steps to time.
            build: class of the module; one that leaves out the augmentation if left out.
        """
        clock = Steps(warm_up, steps)
        self._train(build or resident(self.batch), self.batch, clock, compile)
        middle = statistics.median(clock.burst_ms)
        return {
            "ms": middle,
            "ms_min": min(clock.burst_ms),
            "ms_max": max(clock.burst_ms),
            "steps": steps,
            "images_per_second": len(self.batch.images) / (middle / 1000),
            "first_step_s": round(clock.first_s, 2),
            "peak_memory_mb": clock.peak_mb,
        }

    def count(self) -> tuple[int, float]:
        """Operations and bytes of the eager step without the average, counted on one and two images."""
        counts = []
        for images in (1, 2):
            few = self.batch.map(partial(torch.narrow, dim=0, start=0, length=images))
            counted: list[float] = []
            clock = StepClock(0.0, warm_up=1, burst=1)  # lets three steps pass
            self._train(resident(few, counted), few, clock, compile=False)
            counts.append((images, counted))
        (one, first), (two, second) = counts
        flops, moved = (
            arithmetic.at_batch((one, a), (two, b), len(self.batch.images))
            for a, b in zip(first, second, strict=True)
        )
        return round(flops), moved

    def _train(self, build: Callable[..., YOLOv5], batch: Batch, clock: StepClock, compile: bool) -> None:
        data: Any = SimpleNamespace(
            image_size=batch.images.shape[-1],
            batch_size=len(batch.images),
            class_names=[str(i) for i in range(CLASSES)],
            category_ids=range(1, CLASSES + 1),
        )
        ema = ExponentialMovingAverage()
        training = ShortTraining(self.module, data, data.batch_size, self.device, ema, build)
        form = Form(self.precision, channels_last=True, compile="default" if compile else False)
        training.train(form, itertools.repeat(batch), clock)


class Steps(StepClock):
    """Times a number of steps after some more."""

    def __init__(self, warm_up: int, steps: int) -> None:
        super().__init__(seconds=float("inf"), warm_up=1 + warm_up, burst=1)
        self.first_s = self.peak_mb = 0.0
        self._steps = steps
        self._start_s = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self._start_s = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            arithmetic.device_is_done(str(pl_module.device))
            self.first_s = time.perf_counter() - self._start_s
        if batch_idx + 1 == self.warm_up:
            arithmetic.device_is_done(str(pl_module.device))
            reset_peak_memory(pl_module.device)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if batch_idx + 1 == self.warm_up + self._steps:
            self.peak_mb = peak_memory_mb(pl_module.device)
            trainer.should_stop = True


class _EagerAugmentation(YOLOv5):
    """The module with its augmentation left eager."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.augmentation.compile_core = lambda **_: None  # type: ignore[method-assign]


def resident(batch: Batch, counted: list[float] | None = None) -> type[YOLOv5]:
    """Make a module that trains on one batch as if it had been augmented.

    Args:
        batch: the batch.
        counted: filled with operations and bytes of the second and third step.
    """
    prepared = prepare(batch)

    class Resident(YOLOv5):
        def _prepare(self, batch: Batch, batch_index: int) -> Prepared:
            return prepared

        def training_step(self, batch: Batch, batch_index: int) -> None:
            step = partial(super().training_step, batch, batch_index)
            if counted is None or batch_index == 0:  # what is made once is not counted
                step()
            else:
                counted.append(_COUNTS[batch_index - 1](step))

    return Resident


def synthetic_batch(images: int, size: int, device: torch.device) -> Batch:
    """A batch of noise with eight boxes an image, on the device; always the same."""
    generator = torch.Generator().manual_seed(0)
    rows = 8
    targets = torch.zeros(images, LABEL_CAPACITY, 5)
    targets[:, :rows, 0] = torch.randint(CLASSES, (images, rows), generator=generator).float()
    low = torch.rand(images, rows, 2, generator=generator) * 0.7
    targets[:, :rows, 1:3] = low * size
    targets[:, :rows, 3:5] = (low + 0.02 + 0.28 * torch.rand(images, rows, 2, generator=generator)) * size
    pixels = torch.randint(256, (images, size, size, 3), dtype=torch.uint8, generator=generator)
    batch = Batch(
        images=pixels.permute(0, 3, 1, 2),  # (B, 3, S, S), channels last
        targets=targets,
        count=torch.full((images,), rows),
        index=torch.arange(images),
        image_ids=torch.arange(images),
        original_sizes=torch.full((images, 2), size),
        letterbox=torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(images, 4).contiguous(),
        truth=torch.zeros(images, 0, 7),
        truth_count=torch.zeros(images, dtype=torch.int64),
    )
    on_device = move(batch, device)
    arithmetic.device_is_done(str(device))  # the augmentation reads it on another stream
    return on_device


def prepare(batch: Batch) -> Prepared:
    """A batch as if it had been augmented: float images, and the label rows of four mosaic tiles."""
    room = 4 * len(batch.images) * batch.targets.shape[1]
    return Prepared(batch.images.float() / 255, *pack_labels(batch.targets, batch.count, room))


def compiled_bytes() -> int | None:
    """What Inductor counted since its log was switched on; None where this version counts nothing."""
    from torch._inductor import metrics

    return int(getattr(metrics, "num_bytes_accessed", 0)) or None
