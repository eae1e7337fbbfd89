"""From what was measured to the bottleneck, the options to change, and what that will give."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from .candidates import Candidate

Bottleneck = Literal["reading", "decoding", "step", "copy", "host", "none"]
LOSS_THRESHOLD = 0.05
"""Part of the time, 0..1, below which nothing is called a bottleneck."""
LEAST_GAIN = 1.03
"""Factor in images a second below which no option is recommended: noise would decide."""
_SLOW_READING = 0.5


class Plan(NamedTuple):
    """A way to run a training: options that matter for its speed, made definite."""

    cache: str
    """none, disk, ram or device."""
    workers: int
    """Processes that load; 0 loads in the main process."""
    candidate: Candidate
    compile_augmentation: bool

    @property
    def compile_option(self) -> str:
        """As ``model.compile`` wants it."""
        if self.candidate.compile:
            return "default"
        return "augmentation" if self.compile_augmentation else "false"


class Timing(NamedTuple):
    """What was measured of a plan, in milliseconds an image."""

    loader_ms: float
    """The loader by itself."""
    step_ms: float
    """Augmentation and training step by themselves, on a batch that stays where it is."""
    together_ms: float
    """The loader feeding the step."""


@dataclass(frozen=True)
class Findings:
    """What was measured of the present plan and of the one that looks better."""

    on_cuda: bool
    now: Plan
    now_timing: Timing
    better: Plan
    better_timing: Timing
    read_fraction: float
    """Of the present loader's time the part that went into reading files, 0..1; NaN: unknown."""
    copy_ms: float = 0.0
    """Milliseconds an image of the way to the device."""


class Verdict(NamedTuple):
    """What to tell the user."""

    bottleneck: Bottleneck
    sentence: str
    options: dict[str, str]
    """Name of an option -> value to give it; empty where nothing is to be gained."""
    gain: float
    """Factor in images a second that the options give; 1 without any."""


def judge(findings: Findings) -> Verdict:
    """Name the bottleneck of the present plan, and recommend the other plan if it is faster."""
    bottleneck, sentence = name_bottleneck(findings)
    gain = findings.now_timing.together_ms / findings.better_timing.together_ms
    options = changed_options(findings.now, findings.better)
    if gain < LEAST_GAIN or not options:
        return Verdict(bottleneck, sentence, {}, 1.0)
    return Verdict(bottleneck, sentence, options, gain)


def name_bottleneck(findings: Findings) -> tuple[Bottleneck, str]:
    """What costs most of that which a training with resident batches and the best step would not cost.

    On a CPU loader and step share the cores, so that their times add up; on CUDA the slower of the two
    hides the other.
    """
    now = findings.now_timing
    waiting = max(0.0, now.together_ms - now.step_ms)
    slow_step = max(0.0, now.step_ms - findings.better_timing.step_ms)
    least = LOSS_THRESHOLD * now.together_ms
    share = f"{100 * max(waiting, slow_step) / now.together_ms:.0f} %"
    if max(waiting, slow_step) < least:
        return (
            "none",
            "nothing: the device trains nearly all of the time, and no faster way was measured",
        )
    if slow_step > waiting:
        return "step", f"the training step: {share} of the time is lost by computing it as {_how(findings)}"
    loads = now.loader_ms >= 0.8 * now.together_ms if findings.on_cuda else now.loader_ms >= 0.5 * waiting
    if loads:
        return _name_loading(findings, share)
    if findings.copy_ms >= 0.5 * waiting and findings.on_cuda:
        return "copy", f"the copy to the device: {share} of the time is lost with it"
    return "host", f"the host: {share} of the time is lost between loader and step"


def _name_loading(findings: Findings, share: str) -> tuple[Bottleneck, str]:
    now = findings.now
    where = "in the main process" if now.workers == 0 else f"in {now.workers} worker processes"
    if now.cache != "none":
        return "reading", f"reading the {now.cache} cache {where}: {share} of the time is lost waiting for it"
    if findings.read_fraction >= _SLOW_READING:
        part = f"{100 * findings.read_fraction:.0f} % of the loader's time"
        return "reading", f"reading files {where}, {part}: {share} of all time is lost waiting for images"
    return "decoding", f"decoding images {where}: {share} of the time is lost waiting for them"


def _how(findings: Findings) -> str:
    now, better = findings.now, findings.better
    ways = []
    if now.candidate.precision != better.candidate.precision:
        ways.append(f"precision {now.candidate.precision}")
    if now.candidate.channels_last != better.candidate.channels_last:
        ways.append("channels last" if now.candidate.channels_last else "channels first")
    if now.compile_option != better.compile_option:
        ways.append(f"compile {now.compile_option}")
    return " with ".join(ways) or "it is"


def changed_options(now: Plan, better: Plan) -> dict[str, str]:
    """The options by which one plan becomes the other, with their values."""
    options: dict[str, str] = {}
    if better.cache != now.cache:
        options["data.cache"] = better.cache
        options["data.num_workers"] = "auto"
    elif better.workers != now.workers:
        options["data.num_workers"] = str(better.workers)
    if better.candidate.precision != now.candidate.precision:
        options["trainer.precision"] = better.candidate.precision
    if better.candidate.channels_last != now.candidate.channels_last:
        options["model.channels_last"] = str(better.candidate.channels_last).lower()
    if better.compile_option != now.compile_option:
        options["model.compile"] = better.compile_option
    return options


def fragment(options: dict[str, str]) -> str:
    """Options as they are put on a command line."""
    return " ".join(f"--{name} {value}" for name, value in options.items())


def pays(loader_ms: float, better_loader_ms: float, step_ms: float, on_cuda: bool) -> bool:
    """Whether a faster loader can be noticed at all, all in milliseconds an image.

    Args:
        loader_ms: of the present loader by itself.
        better_loader_ms: of the other one.
        step_ms: of the step.
        on_cuda: a loader hides behind the step there, unless it takes about as long.
    """
    if on_cuda:
        return loader_ms > 0.8 * step_ms and better_loader_ms < loader_ms
    return loader_ms - better_loader_ms > (LEAST_GAIN - 1) * step_ms


def with_compiled_step(timing: Timing, ratio: float) -> Timing:
    """What a plan would take with the network compiled; only for a CPU, where times add up.

    The augmentation, a small part of the step, is counted as if it became as much faster.

    Args:
        timing: of the plan with the eager step.
        ratio: duration of the compiled step to that of the eager one.
    """
    saved_ms = timing.step_ms * (1 - ratio)
    return timing._replace(step_ms=timing.step_ms - saved_ms, together_ms=timing.together_ms - saved_ms)


def epoch_seconds(images: int, together_ms: float) -> float:
    """Duration of the training of an epoch, without its validation; NaN where nothing is known."""
    return images * together_ms / 1000 if math.isfinite(together_ms) else math.nan
