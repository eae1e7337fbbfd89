"""Ways to run a training: what was measured of them, which is fastest, and the options that lead to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ...data.images.choose_cache import CacheMode
from ...data.loading.ordered import Loading
from ...training.compilation import CompileOption
from ...training.precision import Precision, has_native_bf16
from ..bottleneck import Cause, Measurements, find_bottleneck

TIE = 0.03  # forms of the step within this part of the fastest count as equally fast
FP16_ADVANTAGE = 0.10  # part by which fp16, with its narrow range, must be faster than bf16 to be preferred
LOSS_TOLERANCE = 0.05  # part of the loss in fp32 by which the loss of another precision may differ
LEAST_GAIN = 1.03
"""Factor in images a second below which no option is recommended: noise would decide."""


class Form(NamedTuple):
    """A way to compute the training step."""

    precision: Precision
    channels_last: bool  # memory order of weights and activations
    compile: CompileOption
    """Value of ``model.compile``: False, ``augmentation``, or a mode, which compiles the network too."""

    @property
    def compiles_network(self) -> bool:
        """True if network and loss are compiled."""
        return self.compile not in (False, "augmentation")

    def __str__(self) -> str:
        order = "channels last" if self.channels_last else "channels first"
        compiled = {False: "eager", "augmentation": "augmentation compiled"}
        return f"{self.precision}, {order}, {compiled.get(self.compile, 'all compiled')}"


@dataclass(frozen=True)
class StepTime:
    """Time of a training step in one form, on a batch that stays on the device."""

    form: Form
    batch_size: int  # images of the measured step
    median_ms: float = math.nan
    repetitions: int = 0
    loss: float = math.nan  # sum of the loss's parts; network and batch are the same for all forms
    peak_bytes: int | None = None  # largest memory of tensors, on CUDA
    failure: str | None = None  # reason why it could not be measured; the numbers are then NaN

    @property
    def image_ms(self) -> float:
        """Milliseconds an image."""
        return self.median_ms / self.batch_size

    def has_right_loss(self, reference: float) -> bool:
        """Check that the loss is finite and within 5 % of the one in fp32, unless that is NaN."""
        if self.failure or not math.isfinite(self.loss):
            return False
        return math.isnan(reference) or abs(self.loss - reference) <= LOSS_TOLERANCE * abs(reference)

    def as_json(self) -> dict[str, Any]:
        """Plain types; None for what was not measured."""
        values = asdict(self) | {"form": self.form._asdict(), "images_per_second": 1000 / self.image_ms}
        return without_nan(values)


def without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN and infinity, which JSON lacks, by None."""
    return {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in values.items()}


class Plan(NamedTuple):
    """The options of a training that matter for its speed."""

    cache: CacheMode
    workers: int  # worker processes of the loader; 0 loads in the main process
    form: Form

    def loader(self) -> str:
        """The part that the loader depends on, in words."""
        return f"cache {self.cache}, {self.workers} workers"

    def __str__(self) -> str:
        return f"{self.loader()}, {self.form}"


class Timing(NamedTuple):
    """Speed of a plan, in milliseconds an image."""

    loader_ms: float  # loader by itself
    step_ms: float  # training step by itself, on a batch that stays on the device
    together_ms: float  # loader and step together


class Verdict(NamedTuple):
    """Bottleneck and recommendation."""

    bottleneck: Cause | None
    sentence: str
    options: dict[str, str]  # recommended values by the name of their option; empty if nothing is faster
    gain: float  # factor in images a second that the options give; 1 without any


def eager_forms(device: str, compile: CompileOption) -> list[Form]:
    """List the forms worth measuring on a device, without a compiled network; fp32 is always among them."""
    precisions: list[Precision] = ["32-true"]
    if has_native_bf16(device):
        precisions.append("bf16-mixed")
    if device.startswith("cuda"):
        precisions.append("16-mixed")
    return [Form(precision, order, compile) for precision in precisions for order in (True, False)]


def fastest(times: Sequence[StepTime], on_cuda: bool) -> StepTime | None:
    """Select the fastest form with the right loss; among equally fast ones the least risky.

    On CUDA fp16 must be 10 % faster than bf16. Of equally fast forms an eager network comes before a
    compiled one, which costs time at the start. Then fp32 comes before bf16 on a CPU; on CUDA the reverse,
    for its memory. None if none could be measured.
    """
    full = [t.loss for t in times if t.form.precision == "32-true" and not t.failure]
    right = [time for time in times if time.has_right_loss(full[0] if full else math.nan)]
    if on_cuda:
        halves = [t.median_ms for t in right if t.form.precision == "16-mixed"]
        brains = [t.median_ms for t in right if t.form.precision == "bf16-mixed"]
        if halves and brains and min(brains) <= (1 + FP16_ADVANTAGE) * min(halves):
            right = [time for time in right if time.form.precision != "16-mixed"]
    if not right:
        return None
    order = ["bf16-mixed", "16-mixed", "32-true"] if on_cuda else ["32-true", "bf16-mixed", "16-mixed"]

    def risk(time: StepTime) -> tuple[bool, int, float]:
        return time.form.compiles_network, order.index(time.form.precision), time.median_ms

    limit_ms = (1 + TIE) * min(time.median_ms for time in right)
    return min((time for time in right if time.median_ms <= limit_ms), key=risk)


def is_worthwhile(loader_ms: float, better_loader_ms: float, step_ms: float, on_cuda: bool) -> bool:
    """Decide whether a faster loader could be noticed; all times in milliseconds an image.

    On CUDA a loader hides behind the step, unless it takes about as long; on a CPU the times add up.
    """
    if on_cuda:
        return loader_ms > 0.8 * step_ms and better_loader_ms < loader_ms
    return loader_ms - better_loader_ms > (LEAST_GAIN - 1) * step_ms


def judge(
    *,
    now: Plan,
    now_timing: Timing,
    better: Plan,
    better_timing: Timing,
    loading: Loading,
    copy_ms: float,
    on_cuda: bool,
) -> Verdict:
    """Name the bottleneck of the configured plan, and recommend the other plan if it is faster.

    The bottleneck is the largest avoidable cost: time that in-memory batches and the fastest step would save.
    ``loading`` is of the configured loader; ``copy_ms`` is what an image takes to the device.
    """
    together_ms = now_timing.together_ms
    idle_ms, loader_ms = max(0.0, together_ms - now_timing.step_ms), now_timing.loader_ms
    if on_cuda:  # a loader that is faster than loader and step together hides behind the step
        loader_ms = idle_ms if loader_ms >= 0.8 * together_ms else 0.0
    found = find_bottleneck(
        Measurements(
            idle_fraction=idle_ms / together_ms,
            loader_fraction=loader_ms / together_ms,
            copy_fraction=copy_ms / together_ms,
            slow_step_fraction=max(0.0, now_timing.step_ms - better_timing.step_ms) / together_ms,
            step_form=str(now.form),
            loading=loading,
        ),
        "the time",
    )
    cause, sentence = None, "none: the device trains nearly all of the time, and no faster way was measured"
    if found is not None:
        cause = found.cause
        sentence = f"{cause}: {found.loss}, because {found.why}"
    gain, options = together_ms / better_timing.together_ms, changed_options(now, better)
    if gain < LEAST_GAIN or not options:
        return Verdict(cause, sentence, {}, 1.0)
    return Verdict(cause, sentence, options, gain)


def changed_options(now: Plan, better: Plan) -> dict[str, str]:
    """List the options, with their values, by which one plan becomes the other."""
    options: dict[str, str] = {}
    if better.cache != now.cache:
        options["data.cache"] = better.cache
        options["data.num_workers"] = "auto"
    elif better.workers != now.workers:
        options["data.num_workers"] = str(better.workers)
    names = "trainer.precision", "model.channels_last", "model.compile"
    for name, before, after in zip(names, now.form, better.form, strict=True):
        if after != before:
            options[name] = str(after).lower()
    return options


def command_line(options: dict[str, str]) -> str:
    """Write options as arguments of a command."""
    return " ".join(f"--{name} {value}" for name, value in options.items())
