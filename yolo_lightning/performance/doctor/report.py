"""What the doctor found: as a table for people, and as JSON for machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...system.text import duration
from .candidates import StepTime
from .loading import ImageCost
from .verdict import Plan, Timing, Verdict, epoch_seconds, fragment


@dataclass(frozen=True)
class Report:
    """All figures of a diagnosis."""

    machine: str
    network: str
    """Architecture, batch size and image size."""
    images: int
    """Of a training epoch."""
    image_cost: ImageCost
    candidates: Sequence[StepTime]
    """The training step without augmentation, in each form that was measured."""
    copy_gb_per_s: float | None
    """To the device; None on a CPU."""
    now: Plan
    now_timing: Timing
    better: Plan
    better_timing: Timing
    verdict: Verdict
    notes: Sequence[str] = ()

    @property
    def images_per_second(self) -> float:
        """Of the training as it is configured."""
        return 1000 / self.now_timing.together_ms

    @property
    def predicted_images_per_second(self) -> float:
        """With the options that are recommended."""
        return self.images_per_second * self.verdict.gain

    @property
    def epoch_s(self) -> float:
        """Duration of a training epoch as configured, without its validation."""
        return epoch_seconds(self.images, self.now_timing.together_ms)

    @property
    def command(self) -> str:
        """The recommended options, to be put on a command line; empty where nothing is to be gained."""
        return fragment(self.verdict.options)

    def as_json(self) -> dict[str, Any]:
        """Plain types only; what was not measured is None."""
        cost = self.image_cost
        return _finite(
            {
                "machine": self.machine,
                "network": self.network,
                "images": self.images,
                "bottleneck": self.verdict.bottleneck,
                "sentence": self.verdict.sentence,
                "recommendation": self.verdict.options,
                "command": self.command,
                "images_per_second": self.images_per_second,
                "predicted_images_per_second": self.predicted_images_per_second,
                "gain": self.verdict.gain,
                "epoch_s": self.epoch_s,
                "predicted_epoch_s": self.epoch_s / self.verdict.gain,
                "read_cold_ms": cost.cold_read_ms,
                "read_ms": cost.read_ms,
                "decode_ms": cost.decode_ms,
                "copy_gb_per_s": self.copy_gb_per_s,
                "now": _plan_json(self.now, self.now_timing),
                "measured_alternative": _plan_json(self.better, self.better_timing),
                "steps": [_step_json(time) for time in self.candidates],
                "notes": list(self.notes),
            }
        )

    def __str__(self) -> str:
        lines = [f"{self.network} on {self.machine}", "", *self._table(), "", *self._conclusion()]
        return "\n".join(lines)

    def _table(self) -> list[str]:
        cost, now = self.image_cost, self.now_timing
        rows = [
            ("read a file", f"{cost.read_ms:.2f} ms", f"{cost.cold_read_ms:.2f} ms from the disk"),
            ("decode a file", f"{cost.decode_ms:.2f} ms", "one thread"),
            *self._rows("loader alone", now.loader_ms, self.better_timing.loader_ms, _loader),
        ]
        for time in self.candidates:
            figure = f"{time.median_ms:.4g} ms" if not time.failure else "-"
            memory = f", {time.peak_bytes / 2**30:.1f} GiB" if time.peak_bytes else ""
            rate = f"{time.images_per_second:.0f} images/s, {time.batch_size} a step{memory}"
            rows.append((f"step, {time.candidate}", figure, time.failure or rate))
        rows += self._rows("augmentation and step", now.step_ms, self.better_timing.step_ms, _step)
        if self.copy_gb_per_s is not None:
            rows.append(("copy to the device", f"{self.copy_gb_per_s:.1f} GB/s", ""))
        rows += self._rows("both together", now.together_ms, self.better_timing.together_ms, _both)
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        return [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c}".rstrip() for a, b, c in rows]

    def _rows(self, what: str, now_ms: float, better_ms: float, how: Any) -> list[tuple[str, str, str]]:
        rows = [(what, f"{1000 / now_ms:.0f} images/s", f"as configured: {how(self.now)}")]
        if how(self.better) != how(self.now):
            rows.append((what, f"{1000 / better_ms:.0f} images/s", how(self.better)))
        return rows

    def _conclusion(self) -> list[str]:
        lines = [f"The bottleneck is {self.verdict.sentence}."]
        speed = f"{self.images_per_second:.0f} images/s, {duration(self.epoch_s)} an epoch of training"
        if self.verdict.options:
            after = duration(self.epoch_s / self.verdict.gain)
            lines += [
                f"Set:     {self.command}",
                f"Now:     {speed}",
                f"Then:    {self.predicted_images_per_second:.0f} images/s, {after}"
                f" ({self.verdict.gain:.2f} times as fast)",
            ]
        else:
            lines += ["No option was found that makes it faster.", f"Now:     {speed}"]
        return lines + [f"Note:    {note}" for note in self.notes]


def _loader(plan: Plan) -> str:
    return f"cache {plan.cache}, {plan.workers} workers"


def _step(plan: Plan) -> str:
    return f"{plan.candidate}, augmentation {'compiled' if plan.compile_augmentation else 'eager'}"


def _both(plan: Plan) -> str:
    return f"{_loader(plan)}, {_step(plan)}"


def _plan_json(plan: Plan, timing: Timing) -> dict[str, Any]:
    return {
        "cache": plan.cache,
        "workers": plan.workers,
        "precision": plan.candidate.precision,
        "channels_last": plan.candidate.channels_last,
        "compile": plan.compile_option,
        "loader_images_per_second": 1000 / timing.loader_ms,
        "step_images_per_second": 1000 / timing.step_ms,
        "images_per_second": 1000 / timing.together_ms,
    }


def _step_json(time: StepTime) -> dict[str, Any]:
    return {**time.as_json(), "images_per_second": time.images_per_second}


def _finite(value: Any) -> Any:
    """NaN and infinity, which JSON has not, become None."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
