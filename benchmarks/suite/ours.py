"""Benchmarks of what only we are measured on: memory, and the metric."""

from __future__ import annotations

from ..contest import Benchmark, Contender
from ..datasets import make_large_json, make_many_small
from ..plan import Plan


def memory(plan: Plan) -> Benchmark:
    """Growth of loader workers over epochs, and what an index of COCO's size holds."""
    images, side, epochs = (64, 32, 3) if plan.toy else (20_000, 64, 30)
    many = make_many_small(plan, images, side)
    large_images, boxes = (50, 300) if plan.toy else (118_000, 860_000)
    large = make_large_json(plan, large_images, boxes)
    batch = 8 if plan.toy else 64
    return Benchmark(
        name="memory",
        title="Memory of loader workers and of the index",
        unit="MB",
        higher_is_better=False,
        rounds=plan.rounds_of(1),
        contenders=[
            Contender(
                name="workers",
                does=f"growth of the resident set of 2 loader workers from the end of epoch 1 to the end of "
                f"epoch {epochs}, {images:,} images, without a cache; the worker that grew most",
                module="memory_workers",
                arguments=(
                    *("--root", str(many)),
                    *("--size", str(side)),
                    *("--batch", str(batch)),
                    *("--epochs", str(epochs)),
                ),
                unit="%",
            ),
            Contender(
                name="index",
                does=f"bytes that the index of {large_images:,} images and {boxes:,} boxes holds",
                module="memory_index",
                arguments=("--root", str(large)),
            ),
        ],
    )


def metric(plan: Plan) -> Benchmark:
    """Time, memory and correctness of mean average precision at COCO's size."""
    images, detections, classes = (20, 10, 5) if plan.toy else (5_000, 300, 80)
    few = (10, 10, 5) if plan.toy else (300, 100, 80)
    return Benchmark(
        name="metric",
        title=f"Mean average precision of {images:,} images x {detections} detections, {classes} classes",
        unit="s",
        higher_is_better=False,
        rounds=plan.rounds_of(3),
        contenders=[
            Contender(
                name="speed",
                does="updates in batches of 32 and compute",
                module="metric_speed",
                arguments=tuple(map(str, (images, detections, classes))),
            ),
            Contender(
                name="agreement",
                does=f"largest difference to pycocotools, {few[0]} images x {few[1]} detections",
                module="metric_agreement",
                arguments=tuple(map(str, few)),
                unit="difference",
            ),
        ],
    )
