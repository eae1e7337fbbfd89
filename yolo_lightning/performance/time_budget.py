"""Wall time of a run by phase."""

from __future__ import annotations

import functools
import json
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ..runs.checkpoint_io import RunCheckpointIO
from ..system.background import BackgroundQueue
from ..system.files import write_whole

PHASES = (
    "start_up", "compilation", "data_wait", "step", "validation", "checkpoints", "drawing", "other",
)  # fmt: skip
"""Phases in the order of the report."""
FILE = "time_budget.json"
_START_UP = PHASES[0]
_BETWEEN = "between"
"""Time after a batch whose phase depends on what follows: a batch, a validation or the end of the epoch."""


class TimeBudget(Callback):
    """Attributes every moment of a run to one of :data:`PHASES`, and keeps the sums in ``time_budget.json``.

    * ``start_up``: until the first batch: imports, options, data, network, checkpoint, first validation.
    * ``compilation``: time of torch.compile, see :func:`compile_seconds`.
    * ``data_wait``: from the end of a batch's hooks to the start of the next; on a GPU an upper bound.
    * ``step``: from the start of a batch's hooks to their end.
    * ``validation``: with its own wait for data.
    * ``checkpoints``: time in which saving holds up training; the rest is written beside it.
    * ``drawing``: time in which pictures, curves and the report hold up training.
    * ``other``: ends of epochs, and the end of the run.

    The host's clock never waits for the device. The file holds ``wall_seconds``, ``seconds`` by phase, which
    add up to it, and ``processes``, the number of starts. A run that resumes adds its time to that of the
    earlier parts, up to the checkpoint. List this callback last, so that other hooks count as step.

    Args:
        directory: run directory.
        queue: writes the file after each epoch.
        drawing: callbacks whose hooks count as ``drawing``.
        began_s: start of the run on ``time.monotonic``'s clock; now if left out.
    """

    def __init__(
        self,
        directory: str | Path,
        queue: BackgroundQueue,
        drawing: Sequence[Callback] = (),
        began_s: float | None = None,
    ) -> None:
        self.path = Path(directory) / FILE
        self._queue = queue
        self._drawing = list(drawing)
        self._io: RunCheckpointIO | None = None
        counters = {
            "compilation": compile_seconds,
            "checkpoints": lambda: self._io.stall_seconds if self._io else 0.0,
        }
        self._clock = PhaseClock(_START_UP, began_s, counters)
        self._earlier: dict[str, Any] = {"wall_seconds": 0.0, "seconds": {}, "processes": 0}

    def state_dict(self) -> dict[str, Any]:
        """Return ``wall_seconds``, ``seconds`` by phase and ``processes`` of the run until now."""
        earlier, own = self._earlier["seconds"], self._clock.seconds()
        own["data_wait"] = own.get("data_wait", 0.0) + own.pop(_BETWEEN, 0.0)
        return {
            "wall_seconds": self._earlier["wall_seconds"] + self._clock.elapsed_s,
            "seconds": {name: earlier.get(name, 0.0) + own.get(name, 0.0) for name in PHASES},
            "processes": self._earlier["processes"] + 1,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._clock.phase == _START_UP:  # otherwise this process goes back, and its own time is counted
            self._earlier = state_dict

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        io = trainer.strategy.checkpoint_io
        self._io = io if isinstance(io, RunCheckpointIO) else None
        self._time(trainer, "save_checkpoint", "checkpoints")
        for callback in self._drawing:
            for hook in vars(Callback):
                if hook.startswith("on_") and getattr(type(callback), hook) is not getattr(Callback, hook):
                    self._time(callback, hook, "drawing")

    def _time(self, owner: object, name: str, phase: str) -> None:
        """Attribute the calls of a method to a phase."""
        if name in vars(owner):  # already, by an earlier setup
            return
        method: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._clock.during(phase):
                return method(*args, **kwargs)

        setattr(owner, name, timed)

    def _enter(self, phase: str, between: str = "other") -> None:
        """Begin a phase; the time since the last batch belongs to the phase ``between``."""
        if self._clock.phase != _START_UP or phase in {"step", "validation"}:
            self._clock.reassign(_BETWEEN, between)
            self._clock.enter(phase)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._enter(_BETWEEN)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._enter("step", between="data_wait")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._enter(_BETWEEN)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._enter("validation", between="validation")  # its loader was started before this

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._enter(_BETWEEN)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._enter("other")
        if trainer.is_global_zero:
            self._queue.submit(write_whole, self.path, self._as_json())

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._clock.phase != _START_UP:  # a resumption that failed leaves the old file
            self._enter("other")
            self.on_fit_end(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.on_fit_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file after the queued ones; a failure is only a warning."""
        if not trainer.is_global_zero:
            return
        with self._clock.during("drawing"):
            self._queue.drain()
        try:
            write_whole(self.path, self._as_json())
        except OSError as error:
            warnings.warn(f"{self.path}: cannot be written ({error.strerror})", stacklevel=1)

    def _as_json(self) -> str:
        return json.dumps(self.state_dict(), indent=2)


class PhaseClock:
    """Adds up the duration of each phase; together they are all the time since the start.

    A counter measures something within the phases, such as torch's time of compiling. Its growth is taken out
    of the phase in which it grew, so that nothing counts twice. The clock belongs to one thread. It and its
    counters start at ``began_s`` on ``time.monotonic``'s clock, or now.
    """

    def __init__(
        self,
        phase: str,
        began_s: float | None = None,
        counters: Mapping[str, Callable[[], float]] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.phase = phase
        self._now = now
        self._began_s = self._mark = now() if began_s is None else began_s
        self._counters = dict(counters or {})
        # Seconds counted before the clock began do not belong to it.
        self._counted = {name: read() if began_s is None else 0.0 for name, read in self._counters.items()}
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @property
    def elapsed_s(self) -> float:
        """Time since the start."""
        return self._now() - self._began_s

    def seconds(self) -> dict[str, float]:
        """Duration of each phase until now."""
        self.enter(self.phase)
        return dict(self._seconds)

    def enter(self, phase: str) -> None:
        """Begin a phase; time since the last call goes to the counters that grew, and to the phase before."""
        now = self._now()
        left, self._mark = now - self._mark, now
        for name, read in self._counters.items():
            counted, before = read(), self._counted[name]
            # A smaller value means that it was reset to 0 in between.
            grown = min(left, counted - before if counted >= before else counted)
            self._counted[name] = counted
            self._seconds[name] += grown
            left -= grown
        self._seconds[self.phase] += left
        self.phase = phase

    def reassign(self, source: str, target: str) -> None:
        """Move the time of a phase to another one."""
        self.enter(self.phase)
        self._seconds[target] += self._seconds.pop(source, 0.0)

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Interrupt the present phase by another one."""
        outer = self.phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(outer)


def compile_seconds() -> float:
    """Time that torch.compile took in this process, by its own count; 0 before it is loaded.

    It covers tracing and compiling of forward and backward graphs (``entire_frame_compile``,
    ``entire_backward_compile``), without kernels that are tuned at their first launch.
    """
    compiler = sys.modules.get("torch._dynamo.utils")
    count = getattr(compiler, "calculate_time_spent", None)
    return float(count()["total_wall_time"]) if count else 0.0
