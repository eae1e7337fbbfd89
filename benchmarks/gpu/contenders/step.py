"""Our training step on a batch that stays on the device: time, memory, operations and bytes."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from yolo_lightning.performance.doctor.bare_step import (
    TrainingStep,
    build_augmentation,
    prepare,
    synthetic_batch,
)
from yolo_lightning.performance.doctor.candidates import Candidate, Precision, StepShape
from yolo_lightning.performance.stalls import peak_memory_mb, reset_peak_memory
from yolo_lightning.training.step import Prepared

from .. import arithmetic
from ..chips import Peaks, peaks_of
from ..clock import time_steps
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

    Augmentation is not in it; with ``--ceiling`` the same step is timed once more with it.
    """
    given = _parser().parse_args(arguments)
    torch.set_float32_matmul_precision("high")  # as the command line does: TF32 where there is some
    device = "cuda:0" if given.device == "cuda" else "cpu"
    shape = StepShape(given.architecture, CLASSES, given.size, given.batch, LABEL_CAPACITY, device)
    precision: Precision = "bf16-mixed" if given.precision == "bf16" else "32-true"
    flops, moved = count(shape, Candidate(precision, channels_last=True, compile=False))
    candidate = Candidate(precision, channels_last=True, compile=given.compile)
    prepared = prepare(shape, synthetic_batch(shape))
    step = TrainingStep(shape, candidate)
    torch._logging.set_logs(inductor_metrics=given.compile)  # it counts bytes for its log only
    try:
        reading = timed(lambda: step(prepared), shape, given.warm_up, given.steps)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # the counting may not work here; the step has to
        if not given.compile:
            raise
        print(f"once more, without counting bytes: {error}")
        torch._logging.set_logs()
        torch.compiler.reset()
        step = TrainingStep(shape, candidate)
        reading = timed(lambda: step(prepared), shape, given.warm_up, given.steps)
    reading |= {
        "precision": given.precision + (" (TF32 products)" if given.precision == "fp32" else ""),
        "compiled": given.compile,
        "batch_size": given.batch,
        **operations(flops, reading["ms"], given.precision, given.device),
        **traffic(compiled_bytes() if given.compile else moved, reading["ms"], given.device),
        "bytes_are": _COMPILED_BYTES if given.compile else _EAGER_BYTES,
    }
    if given.ceiling:
        step.augmentation = build_augmentation(shape, compiled=not given.toy)
        batch = synthetic_batch(shape)
        reading["ceiling"] = timed(lambda: step(batch), shape, given.warm_up, given.steps)
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


def timed(step: Callable[[], Any], shape: StepShape, warm_up: int, steps: int) -> dict[str, Any]:
    """Median of ``steps`` steps after ``warm_up``, and the memory peak of those alone."""
    device = torch.device(shape.device)
    began = time.perf_counter()
    step()
    arithmetic.device_is_done(shape.device)
    first_s = time.perf_counter() - began
    for _ in range(warm_up):
        step()
    arithmetic.device_is_done(shape.device)
    reset_peak_memory(device)
    samples = time_steps(step, shape.device, steps)
    middle = statistics.median(samples)
    return {
        "ms": middle,
        "ms_min": min(samples),
        "ms_max": max(samples),
        "steps": steps,
        "images_per_second": shape.batch_size / (middle / 1000),
        "first_step_s": round(first_s, 2),
        "peak_memory_mb": peak_memory_mb(device),
    }


def count(shape: StepShape, candidate: Candidate) -> tuple[int, float]:
    """Operations and bytes of the eager step with the batch of ``shape``, counted on one and two images."""
    step = TrainingStep(shape, candidate)
    prepared = prepare(shape, synthetic_batch(shape))
    few, more = (Prepared(*(tensor[:images] for tensor in prepared)) for images in (1, 2))
    step(few)  # what is made once is not counted
    counts = [(count(partial(step, few)), count(partial(step, more))) for count in _COUNTS]
    flops, moved = (arithmetic.at_batch((1, one), (2, two), shape.batch_size) for one, two in counts)
    del step, prepared, few, more
    if shape.device_type == "cuda":
        torch.cuda.empty_cache()
    return round(flops), moved


def compiled_bytes() -> int | None:
    """What Inductor counted since its log was switched on; None where this version counts nothing."""
    from torch._inductor import metrics

    return int(getattr(metrics, "num_bytes_accessed", 0)) or None
