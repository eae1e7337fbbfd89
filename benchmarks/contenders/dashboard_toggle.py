"""Our ``fit``, with all that shows the run on and off in turn: by how much its steps are longer."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from yolo_lightning.__main__ import main as yolo_lightning
from yolo_lightning.callbacks.curves import EvaluationCurves
from yolo_lightning.callbacks.feature_maps import FeatureMaps
from yolo_lightning.callbacks.gpu_health import GpuHealth
from yolo_lightning.callbacks.pictures import Pictures
from yolo_lightning.callbacks.record import read_metrics

from .epochs import arguments
from .reading import print_reading
from .train_ours import command_line, newest_run, settings_of

_SHOWING = (Pictures, EvaluationCurves, FeatureMaps, GpuHealth)


class Toggle(Callback):
    """Lets what shows the run act in every other part of it.

    A part is a validation and the epoch after it, in which the pictures of that validation are drawn.
    One process alone is compared with itself, because where its memory lies makes more of a difference
    between two of them than what is measured.
    """

    is_on = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, _SHOWING):
                for hook in vars(Callback):
                    if hook.startswith(("on_validation", "on_train_batch", "on_train_epoch")):
                        setattr(callback, hook, self._while_on(getattr(callback, hook)))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.is_on = trainer.current_epoch % 2 == 1  # of the part that begins; the first epoch is warm-up

    def _while_on(self, hook: Callable[..., None]) -> Callable[..., None]:
        return lambda *given: hook(*given) if self.is_on else None


def main() -> None:
    """Run ``fit`` in this process, and print the mean over the parts with in terms of those without."""
    options, further = arguments()
    toggle = f"--trainer.callbacks+={Toggle.__module__}.Toggle"
    yolo_lightning(command_line(options, [toggle, *further]))
    run = newest_run(options.runs)
    steps = [row["perf/step_ms"] for row in read_metrics(run / "metrics.csv")]
    on, off = steps[2::2], steps[3::2]  # two epochs warm up
    ratio = statistics.fmean(on) / statistics.fmean(off or steps)
    details: dict[str, Any] = {"on_ms": on, "off_ms": off, **settings_of(run)}
    print_reading(100 * (ratio - 1), **details)


if __name__ == "__main__":
    main()
