"""Benchmarks of the loader alone."""

from __future__ import annotations

from pathlib import Path

from ..contest import Benchmark, Contender
from ..datasets import COCO_LIKE, TOY, TWELVE_MEGAPIXELS, make_set
from ..plan import Plan

_OURS = (
    "workers read, decode (at reduced size where the file is at least twice as large) and letterbox into "
    "shared memory; mosaic, affine, colour and flips run on the training device within the step and are "
    "part of the end-to-end rows"
)
_YOLOV5 = (
    "create_dataloader(augment=True, hyp=hyp.scratch-low): workers decode four images for each mosaic, then "
    "affine, colour and flips, and collate"
)
_ULTRALYTICS = (
    'build_yolo_dataset(mode="train") with default augmentation and build_dataloader: workers decode one '
    "image, take mosaic partners from a buffer of recent ones, then affine, colour and flips, and collate"
)


def loader(plan: Plan) -> Benchmark:
    """Images a second of the loader alone on COCO-like pictures."""
    root = make_set(plan, TOY if plan.toy else COCO_LIKE)
    clock = _toy_clock() if plan.toy else ("--seconds", "8")
    return Benchmark(
        name="loader",
        title="Loader alone, COCO-like JPEGs (640 px, 144 KB), mosaic training at 640 px, 2 workers, 2 cores",
        unit="images/s",
        rounds=plan.rounds_of(5),
        contenders=[
            _ours("ours", _OURS, root, "none", clock),
            _ours(
                "ours, disk cache",
                "as ours, from the memory-mapped file of decoded images, which is warm",
                root,
                "disk",
                clock,
            ),
            _yolov5(root, clock),
            Contender(
                name="ultralytics",
                does=_ULTRALYTICS,
                module="loader_ultralytics",
                arguments=("--root", str(root), *clock),
                peer="ultralytics",
                is_ours=False,
            ),
        ],
        notes=_NOTES,
    )


def loader_12mp(plan: Plan) -> Benchmark:
    """The same on pictures as cameras make them."""
    root = make_set(plan, TOY if plan.toy else TWELVE_MEGAPIXELS)
    clock = _toy_clock() if plan.toy else ("--seconds", "8", "--warm-up", "4", "--least", "8")
    return Benchmark(
        name="loader_12mp",
        title="Loader alone, 12-megapixel JPEGs (4000 x 3000), mosaic training at 640 px, 2 workers, 2 cores",
        unit="images/s",
        rounds=plan.rounds_of(5),
        contenders=[_ours("ours", _OURS, root, "none", clock), _yolov5(root, clock)],
        notes=_NOTES,
    )


_NOTES = ["nothing is done with the batches; the rate is that of the steady state, after a warm-up"]


def _toy_clock() -> tuple[str, ...]:
    return ("--seconds", "0.2", "--size", "64", "--batch", "4", "--warm-up", "2", "--least", "2")


def _ours(name: str, does: str, root: Path, cache: str, clock: tuple[str, ...]) -> Contender:
    arguments = ("--root", str(root), "--cache", cache, *clock)
    return Contender(name=name, does=does, module="loader_ours", arguments=arguments)


def _yolov5(root: Path, clock: tuple[str, ...]) -> Contender:
    return Contender(
        name="yolov5",
        does=_YOLOV5,
        module="loader_yolov5",
        arguments=("--root", str(root), *clock),
        peer="yolov5",
        is_ours=False,
    )
