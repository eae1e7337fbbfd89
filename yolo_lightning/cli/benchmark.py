"""``yolo-lightning benchmark``: times models of any format side by side on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.image_size import as_option, as_size, checked_size, describe, read_size
from ..data.module import DetectionDataModule
from ..errors import InputError
from ..export import verification
from ..export.formats import ExportOptions
from ..inference.detector import usable_device
from ..inference.runtimes import open_model
from ..inference.trained_model import TrainedModel
from ..system.environment import processor_facts
from ..system.text import printable
from .command_parser import FitParser

_DESCRIPTION = """Time models in any format that can be run here, such as what export has written beside a
checkpoint. They take turns, so that whatever else the machine does slows all of them. A time is a median over
the rounds, and goes from images in memory to boxes and scores before suppression. With --data.root the table
has the mAP on the val split."""
_WARM_UPS = 2


def run_benchmark(argv: list[str]) -> None:
    """Time models with the arguments of a command line.

    Raises:
        InputError: An option is wrong, a model cannot be opened, or the models do not suit each other.
    """
    given = _parser().parse_args(argv)
    for name in ("batch_size", "rounds"):
        if getattr(given, name) < 1:
            raise InputError(f"--{name} is {getattr(given, name)}; give 1 or more")
    device = usable_device(given.device)
    models = [open_model(path, device, trust=given.trust) for path in given.models]
    fixed = [model.facts.input_size for model in models if model.facts.input_size]
    option = given.image_size or as_option((fixed or [models[0].facts.image_size])[0])
    for path, model in zip(given.models, models, strict=True):
        if model.facts.input_size not in (None, as_size(option)):
            raise InputError(f"{path}: takes images of {model.facts.input_size} px alone, not of {option} px")
        checked_size(option, model.facts.stride, "--image_size")
    options = ExportOptions(as_size(option), given.batch_size)
    index = None
    if given.data.root:
        data = DetectionDataModule(**{**given.data.as_dict(), "image_size": option})
        index = data.indices.inspect("val")
        for model in models:
            verification.refuse_other_classes(index, len(model.facts.class_names))
    batch = options.example()
    latencies = take_turns(models, batch[:1], given.rounds)
    throughputs = [len(batch) / seconds for seconds in take_turns(models, batch, given.rounds)]
    where = processor_facts().get("model name", "CPU") if device.type == "cpu" else given.device
    size, threads = describe(options.image_size), torch.get_num_threads()
    print(f"{size}, {threads} threads, {where}, torch {torch.__version__}")
    print(f"{'MB':>7} {'ms':>8} {f'images/s at {given.batch_size}':>15} {'mAP':>7}  model")
    for path, model, latency, throughput in zip(given.models, models, latencies, throughputs, strict=True):
        value = f"{verification.mean_average_precision(model, index, options):.4f}" if index else ""
        row = f"{verification.size_mb(Path(path)):>7.1f} {1e3 * latency:>8.1f} {throughput:>15.1f} {value:>7}"
        print(printable(f"{row}  {path}"), flush=True)


def take_turns(models: Sequence[TrainedModel], images: Tensor, rounds: int) -> list[float]:
    """Time the models in turn.

    Args:
        models: models on one device.
        images: float32 (B, 3, H, W) in 0..1, the input of each call.
        rounds: timed calls of each model.

    Returns:
        Median time of a call of each model, in s.
    """
    times: list[list[float]] = [[] for _ in models]
    for _ in range(_WARM_UPS + rounds):
        for model, each in zip(models, times, strict=True):
            begun = time.perf_counter()
            model(images)[0].cpu()  # waits for the device
            each.append(time.perf_counter() - begun)
    return [statistics.median(each[_WARM_UPS:]) for each in times]


def _parser() -> Any:
    parser = FitParser(prog="yolo-lightning benchmark", description=_DESCRIPTION)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="checkpoints, weights, exported models")
    parser.add_argument(
        "--image_size",
        type=read_size,
        metavar="PX",
        help="side of the input, or height,width (default: the first's)",
    )
    parser.add_argument(
        "--batch_size", type=int, default=8, metavar="N", help="images of a call (default: 8)"
    )
    parser.add_argument(
        "--rounds", type=int, default=20, metavar="N", help="calls of each model (default: 20)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:K (default: cpu)")
    parser.add_argument("--trust", action="store_true", help="run .torchscript and .pt2, which are programs")
    parser.add_class_arguments(DetectionDataModule, "data", skip={"image_size", "batch_size"})
    return parser
