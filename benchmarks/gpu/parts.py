"""What the suite is made of: parts that run one by one, each in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TOY_ARCHITECTURE = Path(__file__).with_name("toy.yaml")
TRAINERS = ("ours", "ultralytics", "yolov5")
"""They take turns; ``ours_cached`` is added where there is time."""


@dataclass(frozen=True)
class Model:
    """A size of YOLOv5 and the batch it is trained with."""

    letter: str
    batch_size: int

    @property
    def name(self) -> str:
        return f"yolov5{self.letter}"


MODELS = (Model("s", 64), Model("n", 128), Model("x", 32))
TOY_MODELS = (Model("n", 2),)


@dataclass(frozen=True)
class Part:
    """One process and its reading."""

    name: str
    """``step/s/bf16-compiled``, ``train/s/ours/0``."""
    module: str
    """Of ``benchmarks.gpu.contenders``."""
    options: tuple[str, ...] = ()
    least_s: float = 5.0
    """It is not begun with less time left than this."""
    most_s: float = 240.0
    """It is ended after this, which is recorded as its error."""


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    image_size: int = 640
    """px."""
    images: int = 6144
    """Pictures of the training split, a multiple of every batch."""
    mean_bytes: int = 144_000
    """Of a JPEG."""
    steps: int = 60
    """Steps that are timed."""
    warm_up: int = 12
    """Steps before that."""
    seconds: float = 10.0
    """Training that is timed, after the first epoch."""
    rounds: int = 2
    models: tuple[Model, ...] = MODELS


FULL = Scale()
TOY = Scale(
    image_size=64, images=12, mean_bytes=2_500, steps=3, warm_up=1, seconds=0.0, rounds=1, models=TOY_MODELS
)


def list_parts(scale: Scale, device: str, toy: bool) -> list[Part]:
    """Every part, the most important first: a suite that is cut has measured those.

    Args:
        scale: sizes and repetitions.
        device: ``cuda`` or ``cpu``.
        toy: whether peers are asked for as little as they can do.
    """
    base = ("--device", device, "--size", str(scale.image_size))
    parts = [
        Part("chip", "chip", base, most_s=90),
        Part(
            "pictures",
            "pictures",
            (*base, "--images", str(scale.images), "--mean-bytes", str(scale.mean_bytes)),
        ),
    ]
    for model in scale.models:
        ceiling, *others = _steps(model, scale, base, toy)
        first = [_train(model, who, 0, scale, base, toy) for who in TRAINERS]
        parts += [ceiling, *first, *others, _train(model, "ours_cached", 0, scale, base, toy)]
        if model is scale.models[0]:
            parts += _later_rounds(model, scale, base, toy)
    for model in scale.models[1:]:
        parts += _later_rounds(model, scale, base, toy)
    return parts


def _later_rounds(model: Model, scale: Scale, base: tuple[str, ...], toy: bool) -> list[Part]:
    rounds = range(1, scale.rounds)
    return [_train(model, who, number, scale, base, toy) for number in rounds for who in TRAINERS]


def _steps(model: Model, scale: Scale, base: tuple[str, ...], toy: bool) -> list[Part]:
    """The four forms of the step; the first one is that of the ceiling."""
    architecture = str(TOY_ARCHITECTURE) if toy else model.name
    parts = []
    for precision, compiled in (("bf16", True), ("bf16", False), ("fp32", False), ("fp32", True)):
        form = f"{precision}-{'compiled' if compiled else 'eager'}"
        options = (
            *base,
            *("--architecture", architecture),
            *("--batch", str(model.batch_size)),
            *("--precision", precision),
            *("--steps", str(scale.steps)),
            *("--warm-up", str(scale.warm_up)),
            *(("--compile",) if compiled else ()),
            *(("--ceiling",) if form == "bf16-compiled" else ()),
            *(("--toy",) if toy else ()),
        )
        parts.append(
            Part(f"step/{model.letter}/{form}", "step", options, least_s=5 if toy else 30 if compiled else 15)
        )
    return parts


def _train(model: Model, who: str, number: int, scale: Scale, base: tuple[str, ...], toy: bool) -> Part:
    is_ours = who.startswith("ours")
    architecture = str(TOY_ARCHITECTURE) if toy and is_ours else model.name
    options = (
        *base,
        *("--architecture", architecture),
        *("--batch", str(model.batch_size)),
        *("--seconds", str(scale.seconds)),
        *(("--cache", "auto") if who == "ours_cached" else ()),
        *(("--toy",) if toy else ()),
    )
    module = "train_ours" if is_ours else f"train_{who}"
    return Part(f"train/{model.letter}/{who}/{number}", module, options, least_s=5 if toy else 35)
