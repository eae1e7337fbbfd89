"""Benchmarks of training end to end."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from ..contest import ROUND, Benchmark, Contender
from ..datasets import TOY, copy_bccd, make_set
from ..plan import CORES, REPOSITORY, Plan

CLOCK = (
    "images of the training split over the seconds of the median epoch, from the start of the epoch to the "
    "end of its last batch; validation and the first epoch are left out"
)


def _data(plan: Plan) -> Path:
    return make_set(plan, TOY) if plan.toy else copy_bccd(plan)


def common_arguments(plan: Plan, epochs: int, seed: str = "0") -> tuple[str, ...]:
    """What every trainer is given."""
    size = ("--size", "64", "--batch", "4") if plan.toy else ()
    return (
        *("--root", str(_data(plan))),
        *("--epochs", str(2 if plan.toy else epochs)),
        *("--seed", seed),
        *("--runs", str(plan.work / "runs")),
        *size,
    )


def train(plan: Plan) -> Benchmark:
    """Fine-tuning of the classic YOLOv5n."""
    arguments = (*common_arguments(plan, 4), "--weights", str(plan.weights))
    return Benchmark(
        name="train",
        title="Training end to end on a CPU: YOLOv5n, BCCD, 320 px, batch 16, 2 cores",
        unit="images/s",
        rounds=plan.rounds_of(5),
        contenders=[
            ours("ours", "fit with every option at its default", arguments),
            _yolov5("yolov5", "yolov5 train --workers 2 --noplots", arguments),
            _yolov5("yolov5, RAM cache", "the same with --cache ram", (*arguments, "--cache", "ram")),
        ],
        notes=[CLOCK],
    )


def train_nu(plan: Plan) -> Benchmark:
    """The anchor-free yolov5nu from scratch."""
    arguments = common_arguments(plan, 4)
    tuned = (*arguments, "cache=ram", f"threads={CORES}")
    return Benchmark(
        name="train_nu",
        title="Training end to end on a CPU: yolov5nu from scratch, BCCD, 320 px, batch 16, 2 cores",
        unit="images/s",
        rounds=plan.rounds_of(5),
        contenders=[
            ours(
                "ours",
                "fit --model.architecture yolov5nu with every other option at its default",
                (*arguments, "--model.architecture", "yolov5nu"),
            ),
            _ultralytics("ultralytics", 'YOLO("yolov5n.yaml").train(workers=2, plots=False)', arguments),
            _ultralytics(
                "ultralytics, tuned",
                f'the same with cache="ram" and {CORES} threads instead of its own choice',
                tuned,
            ),
            _ultralytics(
                "ultralytics, compiled",
                "tuned, and compile=True (its bf16 refuses a CPU)",
                (*tuned, "compile=True"),
            ),
        ],
        notes=[CLOCK],
    )


def fit_wall(plan: Plan) -> Benchmark:
    """Wall time and accuracy of a whole fit; the round is the seed."""
    arguments = (*common_arguments(plan, plan.fit_epochs, ROUND), "--weights", str(plan.weights))
    return Benchmark(
        name="fit_wall",
        title=f"The whole fit of {plan.fit_epochs} epochs: YOLOv5n, BCCD, 320 px, batch 16, 2 cores",
        unit="s",
        higher_is_better=False,
        rounds=plan.rounds_of(3),
        contenders=[
            Contender(
                name="ours",
                does="yolo-lightning fit, from the start of the process to its end",
                module="fit_ours",
                arguments=arguments,
            ),
            Contender(
                name="ours, empty caches",
                does="the same with no compiled code, no measured choices and no decoded images from before",
                module="fit_ours",
                arguments=arguments,
                before=lambda: _empty_caches(plan),
            ),
            Contender(
                name="yolov5",
                does="yolov5 train --workers 2 --noplots, from the start of the process to its end",
                module="fit_yolov5",
                arguments=arguments,
                peer="yolov5",
                is_ours=False,
            ),
        ],
        notes=[
            "round k is seed k; map is mAP 0.50:0.95 on the validation split, ours by COCO's definition, "
            "yolov5's by its own",
        ],
        timeout_s=4 * 3600,
    )


def fit_fast(plan: Plan) -> Benchmark:
    """Wall time and accuracy of the recipe for a fast fine-tuning; the round is the seed."""
    recipe = REPOSITORY / "configs/fast_finetune.yaml"
    epochs = yaml.safe_load(recipe.read_text())["trainer"]["max_epochs"]
    weights = ("--weights", str(plan.weights))
    return Benchmark(
        name="fit_fast",
        title="The fast fine-tuning against a whole fit: YOLOv5n, BCCD, 320 px, batch 16, 2 cores",
        unit="s",
        higher_is_better=False,
        rounds=plan.rounds_of(5),
        contenders=[
            Contender(
                name="ours, fast_finetune.yaml",
                does=f"yolo-lightning fit with configs/fast_finetune.yaml, {epochs} epochs, whole process",
                module="fit_ours",
                arguments=(*common_arguments(plan, epochs, ROUND), *weights, "--config", str(recipe)),
            ),
            Contender(
                name="yolov5",
                does=f"yolov5 train --workers 2 --noplots, {plan.fit_epochs} epochs, whole process",
                module="fit_yolov5",
                arguments=(*common_arguments(plan, plan.fit_epochs, ROUND), *weights),
                peer="yolov5",
                is_ours=False,
            ),
        ],
        notes=["round k is seed k; map is mAP 0.50:0.95 on the validation split, each by its own definition"],
        timeout_s=4 * 3600,
    )


def ceiling(plan: Plan) -> Benchmark:
    """How near ``fit`` comes to a training that never waits for data."""
    arguments = (*common_arguments(plan, 12), "--weights", str(plan.weights))
    return Benchmark(
        name="ceiling",
        title="fit against its ceiling, one resident batch: YOLOv5n, BCCD, 320 px, batch 16, 2 cores",
        unit="images/s",
        rounds=plan.rounds_of(5),
        contenders=[
            ours("fit", "fit with every option at its default", arguments),
            Contender(
                name="resident batch",
                does="the same, but every step gets the same batch, augmentation included",
                module="train_ours",
                arguments=(*arguments, "--resident"),
                is_ours=False,
            ),
        ],
        notes=[CLOCK, "the details of fit hold its own perf/data_wait_fraction"],
    )


def ours(name: str, does: str, arguments: tuple[str, ...]) -> Contender:
    """Our ``fit`` as a contender."""
    return Contender(name=name, does=does, module="train_ours", arguments=arguments)


def _yolov5(name: str, does: str, arguments: tuple[str, ...]) -> Contender:
    return Contender(
        name=name, does=does, module="train_yolov5", arguments=arguments, peer="yolov5", is_ours=False
    )


def _ultralytics(name: str, does: str, arguments: tuple[str, ...]) -> Contender:
    return Contender(
        name=name, does=does, module="train_ultralytics", arguments=arguments, peer="ultralytics",
        is_ours=False,
    )  # fmt: skip


def _empty_caches(plan: Plan) -> None:
    """As after the installation: our caches of compiled code, choices and images are gone."""
    shutil.rmtree(plan.work / "home" / "ours" / "cache", ignore_errors=True)
    for folder in _data(plan).glob(".yolo_lightning_cache*"):
        shutil.rmtree(folder)
