"""``yolo-lightning plan``: memory and speed of a training on a GPU that is not here."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from ..data.annotations.index import DatasetIndex
from ..data.image_size import Size, as_option, as_size, describe, read_size
from ..data.module import DetectionDataModule
from ..model.architecture import short_name
from ..performance.doctor.images import TrainingSample, measure_images
from ..performance.planner.batch import MARGIN, Planner, room, suggested_batch
from ..performance.planner.cards import Card, find_card
from ..performance.planner.speed import bound_speed
from ..performance.planner.step import PARTS, PRECISIONS
from ..runs.directory import with_run_config
from ..system.cores import usable_cores
from ..system.text import duration
from .batch_size import job_of
from .check_options import find_start
from .command_parser import CommandParser
from .launcher import DryCLI, launch

_DESCRIPTION = """Says what a training would take on a GPU that is not here: the memory by part, the largest
batch that fits, a bracket of the images a second, and whether the loader of this machine could keep up. It
traces the real training step without computing it; nothing is trained, and no GPU is needed.

  yolo-lightning plan --model.architecture yolov5s --gpu "RTX 3090" --gpu A100-40GB --data.root DIR"""
_EPILOG = """The other options are those of fit, with --config FILE, and --ckpt_path of a run. Without
--data.batch_size the suggested batch is planned, and without data 80 classes."""
_SAMPLE = 64  # images whose decoding is timed
_SAMPLE_SECONDS = 5.0
_BATCH_SIZE = 16  # where neither a card nor a batch is given


class _OptionsOfFit(DryCLI):
    """Parses the options of ``fit`` and builds nothing."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.set_defaults({"data.batch_size": "auto"})

    def before_instantiate_classes(self) -> None: ...

    def instantiate_classes(self) -> None: ...


def run_plan(argv: list[str]) -> None:
    """Plan a training, with the arguments of a command line.

    Raises:
        InputError: an option or the data set is wrong.
        SystemExit: ``--help``.
    """
    parser = CommandParser("plan", "[--gpu NAME ...] [options of fit]", _DESCRIPTION, _EPILOG)
    parser.add_argument("--gpu", action="append", default=[], metavar="NAME", help="a card; repeatable")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--data.image_size", dest="size", type=read_size, metavar="PX", help="side, or height,width"
    )
    options, of_fit = parser.parse_known_args(argv)
    if options.size is not None:
        of_fit.append(f"--data.image_size={options.size}")
    cards: list[Card | None] = [find_card(name) for name in options.gpu]
    config = launch(_OptionsOfFit, with_run_config(["fit", *of_fit])).config["fit"]
    find_start(config, "validate")  # the network of a checkpoint, which may have been trained to its end
    batch_size = None if config.data.batch_size == "auto" else config.data.batch_size
    data = DetectionDataModule(
        **config.data.as_dict() | {"batch_size": 1 if batch_size is None else batch_size}
    )
    index = data.indices.inspect("train") if config.data.root or config.data.train_annotations else None
    job = job_of(config, index, on_gpu=True)
    rate = _loader_rate(index, data.canvas) if index else None
    planners: dict[str, Planner] = {}
    plans = []
    for card in cards or [None]:
        lacks_bf16 = card and not card.has_bf16 and config.trainer.precision is None
        precision = "16-mixed" if lacks_bf16 else job.precision
        planner = planners.setdefault(precision, Planner(replace(job, precision=precision)))
        plans.append(_plan(planner, card, batch_size, len(index) if index else None, rate))
    if options.json:
        print(json.dumps(plans if len(plans) > 1 else plans[0], indent=1))
    else:
        print("\n\n".join(map(_text, plans)))


def _plan(
    planner: Planner, card: Card | None, batch_size: int | None, images: int | None, rate: float | None
) -> dict[str, Any]:
    """The plan for a card as plain values; ``rate`` is of the loader, images a second."""
    largest = planner.largest_batch(room(card.memory_gb)) if card else None
    nominal = planner.job.optimizer.nominal_batch_size
    suggested = suggested_batch(largest, min(nominal, images or nominal)) if largest else largest
    used = batch_size or suggested or (1 if card else _BATCH_SIZE)
    plan = planner.plan(used)
    memory = {name: round(size / 1e9, 4) for name, size in (*plan.parts.items(), ("peak", plan.peak))}
    found: dict[str, Any] = {
        "gpu": card.name if card else None,
        "architecture": short_name(planner.job.architecture),
        "image_size": as_option(planner.job.image_size),
        "precision": planner.job.precision,
        "batch_size": used,
        "largest_batch_size": largest,
        "suggested_batch_size": suggested,
        "fits": plan.peak <= room(card.memory_gb) if card else None,
        "card_memory_gb": round(card.memory_gb, 2) if card else None,
        "memory_gb": memory,
        "activations_by_block_gb": {number: round(size / 1e9, 4) for number, size in plan.stages.items()},
        "images_per_second": None,
        "epoch_seconds": None,
        "bound_by": None,
        "loader_images_per_second": round(rate, 1) if rate else None,
    }
    if card:
        speed = bound_speed(plan, card, is_half=PRECISIONS[planner.job.precision] is not None)
        low, high = (min(bound, rate) if rate else bound for bound in (speed.low, speed.high))
        found["images_per_second"] = {"low": round(low, 1), "high": round(high, 1)}
        found["bound_by"] = "loader" if rate and rate < speed.low else speed.bound_by
        if images:
            found["epoch_seconds"] = {"low": round(images / high, 1), "high": round(images / low, 1)}
    return found


def _loader_rate(index: DatasetIndex, image_size: Size) -> float:
    """Images a second that all cores of this machine read and decode, by a sample."""
    sample = TrainingSample(index, image_size, index.most_labels, _SAMPLE)
    cost = measure_images(sample, _SAMPLE_SECONDS)
    read_ms = cost.read_ms if sample.stays_in_memory else cost.cold_read_ms
    return 1000 * usable_cores() / (read_ms + cost.decode_ms)


def _text(plan: dict[str, Any]) -> str:
    """A plan as lines for people."""
    gpu, memory, used = plan["gpu"], plan["memory_gb"], plan["batch_size"]
    size = describe(as_size(plan["image_size"]))
    what = f"{plan['architecture']}, {size}, {plan['precision']}, batch {used}"
    lines = [f"{gpu}: {what}" if gpu else what]
    shown = [(name, memory[name]) for name in PARTS if memory[name] >= 0.0005]
    lines += [f"  {name:<13}{size:8.2f} GB" for name, size in (*shown, ("peak", memory["peak"]))]
    if not gpu:
        return "\n".join(lines)
    verdict, largest = "fits" if plan["fits"] else "does not fit", plan["largest_batch_size"]
    lines.append(f"  {verdict} in {plan['card_memory_gb']:.1f} GB with a margin of {1 - MARGIN:.0%}; largest")
    lines[-1] += f" batch {largest}, suggested {plan['suggested_batch_size']}" if largest else " batch: none"
    if not plan["fits"]:
        return "\n".join(lines)
    speed, epoch = plan["images_per_second"], plan["epoch_seconds"]
    lines.append(f"  {speed['low']:.0f} to {speed['high']:.0f} images/s, bound by {plan['bound_by']}")
    if epoch:
        low, high = duration(epoch["low"]), duration(epoch["high"])
        lines[-1] += f"; an epoch takes {low} to {high}"
    if rate := plan["loader_images_per_second"]:
        lines.append(f"  loader of this machine, without a cache: {rate:.0f} images/s")
    return "\n".join(lines)
