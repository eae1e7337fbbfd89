"""Where the time of a training step goes on a CPU: ``python -m benchmarks.step --precision 32-true``.

Forward pass, loss, backward pass and optimizer on one resident batch, without augmentation. torch.profiler
times the operators, torch's FlopCounterMode counts their arithmetic, and the cores' peak is what a matrix
multiplication of 2,048 x 2,048 reaches. For a CPU without AVX-512 set ``ONEDNN_MAX_CPU_ISA=AVX2``,
``ATEN_CPU_CAPABILITY=avx2`` and ``MKL_ENABLE_INSTRUCTIONS=AVX2``. The result is
``benchmarks/results/step_NAME.json``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from yolo_lightning.model.losses import LossConfigs
from yolo_lightning.model.network import build_network
from yolo_lightning.system.environment import package_version
from yolo_lightning.training.optimizer import OptimizerConfig, build_optimizer
from yolo_lightning.training.step import training_losses

from .plan import CORES
from .results import describe_machine, git_commit, write_result

RESULTS = Path(__file__).parent / "results"
WARM_UPS, TIMED, PROFILED = 3, 10, 5
LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
LABELS_PER_IMAGE = 13  # as in BCCD
KINDS = {
    "convolution": ("convolution", "conv2d", "mkldnn"),
    "batch norm": ("batch_norm",),
    "activation": ("silu",),
    "copies and layouts": ("copy", "cat", "upsample", "pool", "contiguous", "clone", "to_copy"),
    "optimizer": ("sgd", "foreach", "norm"),
}
"""Parts of the step, by parts of the names of operators; the first that fits counts."""


def make_step(options: argparse.Namespace) -> Callable[[], None]:
    """A step on one batch that stays."""
    torch.manual_seed(0)
    network = build_network(options.architecture, 3).to(memory_format=torch.channels_last)
    criterion = network.head.build_loss(LossConfigs())
    criterion.image_size_px = options.size
    optimizer = build_optimizer(network, OptimizerConfig(), batch_size=options.batch, fused=True)
    images = torch.rand(options.batch, 3, options.size, options.size).contiguous(
        memory_format=torch.channels_last
    )
    rows = options.batch * LABELS_PER_IMAGE
    corners = torch.rand(rows, 2) * 0.7 * options.size
    sides = (0.05 + 0.25 * torch.rand(rows, 2)) * options.size
    places = torch.stack((torch.arange(rows) // LABELS_PER_IMAGE, torch.arange(rows) % 3), dim=1)
    targets = torch.cat((places, corners, corners + sides), dim=1)  # image, class, corners in px
    mask = torch.ones(rows, dtype=torch.bool)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16-mixed"):
            loss, _ = training_losses(network, criterion, images, targets, mask)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds_of(work: Callable[[], Any], times: int) -> float:
    """Median wall time of a call."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def peak_flops(dtype: torch.dtype) -> float:
    """FLOP/s of a matrix multiplication."""
    a = torch.rand(2048, 2048).to(dtype)
    (a @ a).sum()
    return 2 * 2048**3 / seconds_of(lambda: a @ a, 10)


def kind_of(name: str) -> str:
    """The part of the step that an operator belongs to."""
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "the rest")


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="yolov5n")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--name", default="fp32", help="of the result")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    torch.set_num_threads(CORES)
    step = make_step(options)
    for _ in range(WARM_UPS):
        step()
    seconds = seconds_of(step, TIMED)
    with FlopCounterMode(display=False) as counter:
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(PROFILED):
            step()
    milliseconds: dict[str, float] = {}
    operators = {event.key: event.self_cpu_time_total / 1e3 / PROFILED for event in profiler.key_averages()}
    for name, value in operators.items():
        milliseconds[kind_of(name)] = milliseconds.get(kind_of(name), 0.0) + value
    peak = peak_flops(torch.bfloat16 if options.precision == "bf16-mixed" else torch.float32)
    flops = counter.get_total_flops()
    result = {
        "benchmark": f"step_{options.name}",
        "settings": vars(options),
        "step_ms": round(1e3 * seconds, 1),
        "images_per_second": round(options.batch / seconds, 2),
        "gflop": round(flops / 1e9, 1),
        "peak_gflops": round(peak / 1e9, 1),
        "share_of_peak": round(flops / seconds / peak, 3),
        "convolution_share_of_peak": round(flops / (milliseconds["convolution"] / 1e3) / peak, 3),
        "ms_by_kind": {kind: round(value, 1) for kind, value in sorted(milliseconds.items())},
        "longest_operators_ms": {
            name: round(value, 1) for name, value in sorted(operators.items(), key=lambda item: -item[1])[:12]
        },
        "isa": {key: os.environ.get(key) for key in LIMITS},
        "machine": describe_machine(CORES),
        "versions": {"torch": package_version("torch")},
        "commit": git_commit(),
    }
    print(write_result(RESULTS, result).read_text())


if __name__ == "__main__":
    main()
