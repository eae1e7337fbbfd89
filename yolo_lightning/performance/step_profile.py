"""Profile of a few training steps: a trace, and tables of the time by operator and by module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.profiler import ProfilerAction, ProfilerActivity, profile, record_function

from ..data.batch import Batch
from ..errors import InputError
from ..system.files import write_whole
from ..training.module import YOLOv5
from ..training.step import is_followed_by_validation
from .planner.cards import find_card
from .planner.speed import roofline_seconds
from .planner.step import PRECISIONS, Job, trace_step

WARM_UP, RECORDED = 10, 5
"""Batches before the profiler starts, and batches that it records, after one that warms it up itself."""
TRACE, TABLES = "profile.pt.trace.json.gz", "profile.txt"
_SHOWN = 10
"""Rows of each table on the screen; the file has all."""
_MODULE = "module "
"""Beginning of the name of a module's range in the trace."""
_BACKWARD = "autograd::engine::evaluate_function: "


class Row(NamedTuple):
    """A row of a table; times are means over the recorded batches."""

    name: str
    calls: float  # a batch
    ms: float  # a batch
    reached: float | None = None  # share of the card's roofline, 0..1; None where it is unknown


class StepProfile(Callback):
    """Records five training batches once, after ten of warm-up, in the first process.

    It writes ``profile.pt.trace.json.gz``, for Perfetto and for the profiler plugin of TensorBoard, and
    ``profile.txt``, and prints the first rows. Then nothing of it is left. The record ends early where a
    validation follows. List this callback before those that time the steps: writing takes seconds.
    """

    def __init__(self, run_directory: Path) -> None:
        self.run_directory = run_directory
        self.is_done = False
        self._seen = 0
        self._recorded = 0
        self._running = ExitStack()
        self._profiler: profile | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        has_room = batch_idx == 0 or batch_idx + RECORDED < trainer.num_training_batches
        waits = not self.is_done and self._profiler is None and self._seen >= WARM_UP and has_room
        if waits and trainer.is_global_zero and isinstance(pl_module, YOLOv5):
            activities = [ProfilerActivity.CPU]
            if pl_module.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._running.enter_context(naming_modules(pl_module))
            self._profiler = profile(activities=activities, schedule=_record_all_but_the_first)
            self._profiler.start()
            self._recorded = -1  # the first batch starts the profiler's own machinery

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._seen += 1
        if self._profiler is None:
            return
        self._recorded += 1
        if self._recorded < RECORDED and not is_followed_by_validation(trainer):
            self._profiler.step()
            return
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        self._running.close()
        if self._recorded:
            self.is_done = True
            assert isinstance(pl_module, YOLOv5)
            pl_module.print(self._write(profiler, pl_module, batch))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._profiler is not None:  # a stop within the record
            self._profiler.stop()
            self._running.close()
            self._profiler = None
        if not self.is_done:
            pl_module.print(
                f"profile: nothing was recorded in {self._seen} batches; it needs {WARM_UP} of warm-up, and "
                "then an epoch of at least 2"
            )

    def _write(self, profiler: profile, module: YOLOv5, batch: Batch) -> str:
        """Write trace and tables; the lines for the screen."""
        on_cuda = module.device.type == "cuda"
        reachable = _roofline(module, batch) if on_cuda else {}
        events = list(profiler.events() or ())
        operators = operator_rows(events, self._recorded, on_cuda, reachable)
        modules = module_rows(events, self._recorded, on_cuda)
        clock = "the GPU" if on_cuda else "the CPU"
        total = sum(row.ms for row in operators)
        head = f"profile: mean of {self._recorded} batches, {total:.1f} ms of {clock} a batch in operators"
        note = "" if module.compilation.mode is None else "; a compiled network is one graph without modules"

        def tables(most: int | None) -> str:
            return "\n".join((
                head, *_table(f"operator (self time of {clock})", operators[:most], total),
                *_table(f"module (forward and backward{note})", modules[:most], total),
            ))  # fmt: skip

        profiler.export_chrome_trace(str(self.run_directory / TRACE))
        write_whole(self.run_directory / TABLES, tables(None) + "\n")
        paths = f"all rows: {self.run_directory / TABLES}\ntrace: {self.run_directory / TRACE}"
        return f"{tables(_SHOWN)}\n{paths} (open it in https://ui.perfetto.dev)"


def _record_all_but_the_first(step: int) -> ProfilerAction:
    return ProfilerAction.RECORD if step else ProfilerAction.WARMUP


@contextmanager
def naming_modules(module: YOLOv5) -> Iterator[None]:
    """Give the augmentation, the layers of the network and the loss a range each in the trace.

    A compiled network is left alone: its graph would be compiled again with the hooks.
    """
    named: dict[str, nn.Module] = {"augmentation": module.augmentation}
    if module.compilation.mode is None:
        named |= {f"{n} {type(layer).__name__}": layer for n, layer in module.network.model.named_children()}
        named["loss"] = module.criterion
    open_ranges: list[record_function] = []

    def enter(name: str, *_: Any) -> None:
        open_ranges.append(record_function(_MODULE + name))
        open_ranges[-1].__enter__()

    def leave(*_: Any) -> None:
        open_ranges.pop().__exit__(None, None, None)

    handles = [layer.register_forward_pre_hook(partial(enter, name)) for name, layer in named.items()]
    handles += [layer.register_forward_hook(leave) for layer in named.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def operator_rows(events: list[Any], batches: int, on_cuda: bool, reachable_s: dict[str, float]) -> list[Row]:
    """Operators by the time spent in themselves, the longest first.

    Args:
        events: events of torch's profiler.
        batches: batches that were recorded.
        on_cuda: take the time of the kernels that an operator launches, not that of the CPU.
        reachable_s: seconds a batch at the card's roofline, by the name of the operator.
    """
    calls: defaultdict[str, int] = defaultdict(int)
    own_us: defaultdict[str, float] = defaultdict(float)
    for event in events:
        if event.device_type == torch.autograd.DeviceType.CPU and not event.is_user_annotation:
            calls[event.name] += 1
            own_us[event.name] += event.self_device_time_total if on_cuda else event.self_cpu_time_total
    rows = []
    for name, own in own_us.items():
        if own > 0:
            ideal_s = reachable_s.get(name.removeprefix("aten::").removeprefix("cudnn_"))
            reached = None if ideal_s is None else 1e6 * batches * ideal_s / own
            rows.append(Row(name, calls[name] / batches, own / 1000 / batches, reached))
    return sorted(rows, key=lambda row: -row.ms)


def module_rows(events: list[Any], batches: int, on_cuda: bool) -> list[Row]:
    """Modules of :func:`naming_modules` by the time of their forward and backward passes, the longest first.

    Autograd gives a backward operator the sequence number of its forward operator.
    """
    calls: defaultdict[str, int] = defaultdict(int)
    spent_us: defaultdict[str, float] = defaultdict(float)
    module_of: dict[int, str] = {}
    for event in events:
        if event.device_type != torch.autograd.DeviceType.CPU:
            continue
        time_us = event.device_time_total if on_cuda else event.cpu_time_total
        if event.name.startswith(_MODULE):
            calls[event.name] += 1
            spent_us[event.name] += time_us
            for inner in _below(event):
                if inner.sequence_nr >= 0:
                    module_of[inner.sequence_nr] = event.name
    for event in events:
        if event.name.startswith(_BACKWARD) and event.sequence_nr in module_of:
            spent_us[module_of[event.sequence_nr]] += (
                event.device_time_total if on_cuda else event.cpu_time_total
            )
    rows = [
        Row(name.removeprefix(_MODULE), calls[name] / batches, spent / 1000 / batches)
        for name, spent in spent_us.items()
    ]
    return sorted(rows, key=lambda row: -row.ms)


def _below(event: Any) -> Iterator[Any]:
    for child in event.cpu_children:
        yield child
        yield from _below(child)


def _roofline(module: YOLOv5, batch: Batch) -> dict[str, float]:
    """Seconds a batch of each operator at the roofline of this GPU; empty if card or shape is unknown."""
    precision = str(module.trainer.precision)
    count, _, height, width = batch.images.shape
    with suppress(InputError):
        card = find_card(torch.cuda.get_device_name(module.device))
        has_one_shape = not getattr(module.trainer.datamodule, "rect", False)  # type: ignore[attr-defined]
        if has_one_shape and not module.augmentation_config.multi_scale:
            job = Job(module.architecture, module.num_classes or 80, (height, width), precision)
            return roofline_seconds(trace_step(job, count), card, PRECISIONS[precision] is not None)
    return {}


def _table(title: str, rows: list[Row], total_ms: float) -> list[str]:
    knows = any(row.reached is not None for row in rows)
    lines = [f"{'ms':>10} {'share':>7} {'calls':>8}{'  of the roofline' if knows else ''}  {title}"]
    for row in rows:
        reached = f"{'' if row.reached is None else f'{row.reached:.0%}':>17}" if knows else ""
        share = row.ms / total_ms if total_ms else 0.0
        lines.append(f"{row.ms:10.2f} {share:7.1%} {row.calls:8.1f}{reached}  {row.name}")
    return lines
