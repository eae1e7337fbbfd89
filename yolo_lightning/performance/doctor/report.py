"""The doctor's findings: a table for people, JSON for machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...system.text import duration
from .images import ImageCost
from .plan import Plan, StepTime, Timing, Verdict, command_line, without_nan


@dataclass(frozen=True)
class Report:
    """All figures of an examination."""

    machine: str
    network: str
    """Architecture, batch size and image size."""
    images: int
    """Images of a training epoch."""
    image_cost: ImageCost
    steps: Sequence[StepTime]
    """The training step, in each form that was measured."""
    copy_gb_per_s: float | None
    """Speed of the copy to the device; None on a CPU."""
    now: Plan
    now_timing: Timing
    better: Plan
    better_timing: Timing
    verdict: Verdict
    notes: Sequence[str] = ()

    @property
    def images_per_second(self) -> float:
        """Speed of the training as it is configured."""
        return 1000 / self.now_timing.together_ms

    @property
    def predicted_images_per_second(self) -> float:
        """Speed with the recommended options."""
        return self.images_per_second * self.verdict.gain

    @property
    def epoch_s(self) -> float:
        """Duration of a training epoch as configured, without its validation."""
        return self.images * self.now_timing.together_ms / 1000

    @property
    def command(self) -> str:
        """Recommended options as arguments of a command; empty if nothing is faster."""
        return command_line(self.verdict.options)

    def as_json(self) -> dict[str, Any]:
        """Plain types; None for what was not measured."""
        cost = self.image_cost
        return {
            "machine": self.machine,
            "network": self.network,
            "images": self.images,
            "bottleneck": self.verdict.bottleneck or "none",
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
            "steps": [time.as_json() for time in self.steps],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return "\n".join([f"{self.network} on {self.machine}", "", *self._table(), "", *self._conclusion()])

    def _table(self) -> list[str]:
        cost, now = self.image_cost, self.now_timing
        rows = [
            ("read a file", f"{cost.read_ms:.2f} ms", f"{cost.cold_read_ms:.2f} ms from the disk"),
            ("decode a file", f"{cost.decode_ms:.2f} ms", "one thread"),
            *self._rows("loader alone", now.loader_ms, self.better_timing.loader_ms, Plan.loader),
        ]
        for time in self.steps:
            figure = f"{1000 / time.image_ms:.0f} images/s" if not time.failure else "-"
            memory = f", {time.peak_bytes / 2**30:.1f} GiB" if time.peak_bytes else ""
            duration_ms = f"{time.median_ms:.4g} ms for {time.batch_size} images{memory}"
            rows.append((f"step, {time.form}", figure, time.failure or duration_ms))
        if self.copy_gb_per_s is not None:
            rows.append(("copy to the device", f"{self.copy_gb_per_s:.1f} GB/s", ""))
        rows += self._rows("both together", now.together_ms, self.better_timing.together_ms, str)
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        return [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c}".rstrip() for a, b, c in rows]

    def _rows(
        self, what: str, now_ms: float, better_ms: float, how: Callable[[Plan], str]
    ) -> list[tuple[str, str, str]]:
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


def _plan_json(plan: Plan, timing: Timing) -> dict[str, Any]:
    speeds = {
        "loader_images_per_second": 1000 / timing.loader_ms,
        "step_images_per_second": 1000 / timing.step_ms,
        "images_per_second": 1000 / timing.together_ms,
    }
    return {"cache": plan.cache, "workers": plan.workers, **plan.form._asdict(), **without_nan(speeds)}
