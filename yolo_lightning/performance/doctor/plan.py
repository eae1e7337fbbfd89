"""Ways to run a training: what was measured of them, which is fastest, and the options that lead to it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ...data.images.choose_cache import CacheMode
from ...data.loading.ordered import Loading
from ...training.compilation import CompileOption
from ...training.precision import Precision, has_native_bf16
from ..bottleneck import Cause, Measurements, find_bottleneck

TIE = 0.03
"""Forms of the step within this part of the fastest count as equally fast."""
FP16_ADVANTAGE = 0.10
"""Part by which fp16, with its narrow range, must be faster than bf16 to be preferred."""
LOSS_TOLERANCE = 0.05
"""Part of the loss in fp32 by which the loss of another precision may differ."""
LEAST_GAIN = 1.03
"""Factor in images a second below which no option is recommended: noise would decide."""


class Form(NamedTuple):
    """A way to compute the training step."""

    precision: Precision
    channels_last: bool
    """Memory order of weights and activations."""
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
    batch_size: int
    """Images of the measured step."""
    median_ms: float = math.nan
    repetitions: int = 0
    loss: float = math.nan
    """Sum of the loss's parts; network and batch are the same for all forms."""
    peak_bytes: int | None = None
    """Largest memory of tensors, on CUDA."""
    failure: str | None = None
    """Reason why it could not be measured; the numbers are then NaN."""

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
        """Plain types."""
        return asdict(self) | {"form": self.form._asdict(), "images_per_second": 1000 / self.image_ms}


class Plan(NamedTuple):
    """The options of a training that matter for its speed."""

    cache: CacheMode
    workers: int
    """Worker processes of the loader; 0 loads in the main process."""
    form: Form


class Timing(NamedTuple):
    """Speed of a plan, in milliseconds an image."""

    loader_ms: float
    """Loader by itself."""
    step_ms: float
    """Training step by itself, on a batch that stays on the device."""
    together_ms: float
    """Loader and step together."""


@dataclass(frozen=True)
class Findings:
    """Measurements of the configured plan and of the one that looks better."""

    on_cuda: bool
    now: Plan
    now_timing: Timing
    better: Plan
    better_timing: Timing
    loading: Loading
    """Facts of the configured loader."""
    copy_ms: float = 0.0
    """Milliseconds an image takes to the device."""


class Verdict(NamedTuple):
    """Bottleneck and recommendation."""

    bottleneck: Cause | None
    sentence: str
    options: dict[str, str]
    """Recommended values by the name of their option; empty if nothing is faster."""
    gain: float
    """Factor in images a second that the options give; 1 without any."""


def eager_forms(device: str, compile: CompileOption) -> list[Form]:
    """List the forms worth measuring on a device, without a compiled network; fp32 is always among them.

    Args:
        device: device as torch names it.
        compile: ``augmentation``, or False where nothing can be compiled.
    """
    precisions: list[Precision] = ["32-true"]
    if has_native_bf16(device):
        precisions.append("bf16-mixed")
    if device.startswith("cuda"):
        precisions.append("16-mixed")
    return [
        Form(precision, order, compile) for precision, order in itertools.product(precisions, (True, False))
    ]


def fastest(times: Sequence[StepTime], on_cuda: bool) -> StepTime | None:
    """Select the fastest form with the right loss; among equally fast ones the least risky.

    On CUDA fp16 must be 10 % faster than bf16. Of equally fast forms an eager network comes before a
    compiled one, which costs time at the start. Then fp32 comes before bf16 on a CPU; on CUDA the reverse,
    for its memory.

    Returns:
        None if none could be measured.
    """
    full = [t.loss for t in times if t.form.precision == "32-true" and not t.failure]
    right = [time for time in times if time.has_right_loss(full[0] if full else math.nan)]
    if on_cuda:
        half, brain = (
            min((t.median_ms for t in right if t.form.precision == precision), default=math.inf)
            for precision in ("16-mixed", "bf16-mixed")
        )
        if brain <= (1 + FP16_ADVANTAGE) * half and math.isfinite(brain):
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


def judge(findings: Findings) -> Verdict:
    """Name the bottleneck of the configured plan, and recommend the other plan if it is faster."""
    cause, sentence = _name_bottleneck(findings)
    gain = findings.now_timing.together_ms / findings.better_timing.together_ms
    options = changed_options(findings.now, findings.better)
    if gain < LEAST_GAIN or not options:
        return Verdict(cause, sentence, {}, 1.0)
    return Verdict(cause, sentence, options, gain)


def _name_bottleneck(findings: Findings) -> tuple[Cause | None, str]:
    """Name the largest avoidable cost: time that in-memory batches and the fastest step would save."""
    now = findings.now_timing
    idle_ms = max(0.0, now.together_ms - now.step_ms)
    loader_ms = now.loader_ms
    if findings.on_cuda:  # a loader that is faster than loader and step together hides behind the step
        loader_ms = idle_ms if loader_ms >= 0.8 * now.together_ms else 0.0
    found = find_bottleneck(
        Measurements(
            idle_fraction=idle_ms / now.together_ms,
            loader_fraction=loader_ms / now.together_ms,
            copy_fraction=findings.copy_ms / now.together_ms,
            slow_step_fraction=max(0.0, now.step_ms - findings.better_timing.step_ms) / now.together_ms,
            step_form=str(findings.now.form),
            loading=findings.loading,
        ),
        "the time",
    )
    if found is None:
        return None, "none: the device trains nearly all of the time, and no faster way was measured"
    cause, why, _ = found.advice
    return cause, f"{cause}: {found.loss}, because {why}"


def changed_options(now: Plan, better: Plan) -> dict[str, str]:
    """List the options, with their values, by which one plan becomes the other."""
    options: dict[str, str] = {}
    if better.cache != now.cache:
        options["data.cache"] = better.cache
        options["data.num_workers"] = "auto"
    elif better.workers != now.workers:
        options["data.num_workers"] = str(better.workers)
    if better.form.precision != now.form.precision:
        options["trainer.precision"] = better.form.precision
    if better.form.channels_last != now.form.channels_last:
        options["model.channels_last"] = str(better.form.channels_last).lower()
    if better.form.compile != now.form.compile:
        options["model.compile"] = str(better.form.compile).lower()
    return options


def command_line(options: dict[str, str]) -> str:
    """Write options as arguments of a command."""
    return " ".join(f"--{name} {value}" for name, value in options.items())
