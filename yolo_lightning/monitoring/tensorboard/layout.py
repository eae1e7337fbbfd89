"""What TensorBoard shows first: which curves belong together, what was run, and what came of it."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from ...runs.directory import CONFIG
from ...system.background import BackgroundQueue
from ...training.contracts import detection_data, detection_module
from ..metric_names import loss_title
from .writer import step_of, writer_of

TEXTS = {CONFIG: "yaml", "environment.json": "json"}
"""Files of the run directory that are shown, and their language."""
METRICS = ("val/map", "val/map_50", "best/map", "best/map_50")
"""Scalars that stand beside the hyper-parameters."""
_CELLS = 2
"""Cells of the coarsest map of the image with which the network is traced, on a side."""


class Dashboard(Callback):
    """Arranges TensorBoard, and tells it what was run and what came of it.

    At the start: the layout of the tab of custom scalars (see :func:`layout`), ``config.yaml`` and
    ``environment.json`` of the run directory as texts ``run/…``, the hyper-parameters, and the graph of
    the network, which is traced as a copy on the CPU. At the end: ``best/map`` and
    ``best/map_50`` of ``summary.json``, which stand beside the hyper-parameters together with the
    scalars ``val/map`` and ``val/map_50``. Everything goes to the event file that the scalars are in.

    What is not there, such as a configuration in a run without the command line, is left out. The first
    process alone does all that.

    Args:
        directory: the run directory.
        queue: what runs in the background.
        graph: whether the graph of the network is shown; in a run that is resumed it is there already.
    """

    def __init__(self, directory: str | Path, queue: BackgroundQueue, graph: bool = True) -> None:
        self.directory = Path(directory)
        self.graph = graph
        self._queue = queue
        self._texts_are_due = False
        self._end: Any = None
        """That ends the session of hyper-parameters."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        writer = writer_of(trainer)
        if writer is None:
            return
        self._texts_are_due = True
        module = detection_module(pl_module)
        writer.add_custom_scalars(layout(module.criterion.parts if module else ()))
        experiment, start, self._end = hparams(
            hyper_parameters(trainer, pl_module), dict.fromkeys(METRICS, 0.0)
        )
        for summary in (experiment, start):
            writer._get_file_writer().add_summary(summary)
        if self.graph and module and step_of(trainer) == 0:
            # On this thread: for another one torch would keep more threads, which slows each step.
            write_graph(writer, module.network)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Show the files; earlier, the configuration would be that of before a resumption."""
        if not self._texts_are_due:
            return
        self._texts_are_due = False
        writer = writer_of(trainer)
        for name, language in TEXTS.items():
            path = self.directory / name
            if writer is not None and path.is_file():
                text = f"```{language}\n{path.read_text(encoding='utf-8').rstrip()}\n```"
                writer.add_text(f"run/{name}", text, step_of(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs for a run that was at its end already, too: its last step is taken out of the curves."""
        writer = writer_of(trainer)
        if writer is not None:
            for name, value in _best(self.directory / "summary.json").items():
                writer.add_scalar(f"best/{name}", value, step_of(trainer))
            if self._end is not None:
                writer._get_file_writer().add_summary(self._end)
            self._end = None
        if trainer.is_global_zero:
            self._queue.drain()  # the writer is closed next


def layout(parts: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Which scalars share a chart, by question and title, for ``SummaryWriter.add_custom_scalars``.

    Args:
        parts: names of the parts of the loss.

    Returns:
        Category to title to ``["Multiline", [regular expression of tags, ...]]``.
    """
    losses = {loss_title(part): [f"(train|val)/{part}_loss"] for part in parts}
    of_gpu = r"gpu/(\d+/)?"  # of all GPUs, and of each where there are several
    charts: dict[str, dict[str, list[str]]] = {
        "is it learning?": {
            "mean average precision": ["val/map", "val/map_50", "val/map_75"],
            **losses,
            "loss, all parts": ["val/loss"],
            "mean average precision by size": ["val/map_(small|medium|large)"],
            "mean average precision by class": ["val/map_class/.*"],
            "learning rate": ["lr/.*"],
        },
        "is it fast?": {
            "images a second": ["perf/images_per_second"],
            "a step, ms": ["perf/step_ms"],
            "part of the time without work": ["perf/data_wait_fraction", "perf/device_idle_fraction"],
            "most memory, MB": ["perf/memory_peak_mb"],
            "compiled again": ["perf/recompiles"],
        },
        "is the GPU well?": {
            "busy, 0..1": [f"{of_gpu}utilisation"],
            "temperature, °C": [f"{of_gpu}temperature_c"],
            "throttled, 0..1": [f"{of_gpu}throttled_fraction"],
            "lost by throttling, s": [f"{of_gpu}throttle_lost_s"],
            "clocks, MHz": [f"{of_gpu}(sm|memory)_clock_mhz"],
            "power, W": [f"{of_gpu}power_w"],
            "memory used, MB": [f"{of_gpu}memory_used_mb"],
            "PCIe, MB/s": [f"{of_gpu}pcie_(rx|tx)_mb_s"],
        },
    }
    # TensorBoard is content with the beginning of a tag.
    return {
        category: {title: ["Multiline", [f"{tag}$" for tag in tags]] for title, tags in titles.items()}
        for category, titles in charts.items()
    }


def hyper_parameters(trainer: Trainer, pl_module: LightningModule) -> dict[str, str | float]:
    """The few numbers that runs are compared by, as far as they are known."""
    given: Mapping[str, Any] = pl_module.hparams
    data, module = detection_data(trainer), detection_module(pl_module)
    weights = module and module.weights
    found = {
        "architecture": given.get("architecture"),
        "weights": Path(str(weights)).name if weights else "none",
        "classes": given.get("num_classes"),
        "image_size": data and data.image_size,
        "batch_size": data and data.batch_size * trainer.world_size,
        "epochs": trainer.max_epochs,
        "precision": str(trainer.precision),
        "seed": given.get("seed"),
    }
    for group, names in {
        "optimizer": ("name", "learning_rate", "momentum", "weight_decay"),
        "augmentation": ("mosaic", "mixup", "scale"),
    }.items():
        values = given.get(group, {})
        found |= {f"{group}.{name}": values.get(name) for name in names}
    return {name: value for name, value in found.items() if isinstance(value, str | int | float)}


def empty_copy(network: nn.Module) -> nn.Module:
    """The same modules on the CPU, in evaluation, not compiled and with zeros for weights."""
    memo: dict[int, Any] = {
        id(value): nn.Parameter(torch.zeros_like(value, device="cpu"), requires_grad=False)
        for value in network.parameters()
    }
    memo |= {id(value): torch.zeros_like(value, device="cpu") for value in network.buffers()}
    return copy.deepcopy(network, memo).eval()


@torch.no_grad()
def write_graph(writer: SummaryWriter, network: nn.Module) -> None:
    """Log the graph of a network with ``strides``, traced as a copy on the CPU; an error is a warning."""
    # Not undone: other threads may change the filters meanwhile.
    for message in ("`torch.jit.trace", "The input to trace is already a ScriptModule"):
        warnings.filterwarnings("ignore", message=message)
    try:
        side = _CELLS * max(network.strides)  # type: ignore[arg-type]
        images, copied = torch.zeros(1, 3, side, side), empty_copy(network)
        list_of_maps = copied.forward
        copied.forward = lambda images: tuple(list_of_maps(images))  # a trace wants no lists
        traced = torch.jit.trace(copied, (images,), check_trace=False)
        writer.add_graph(traced, (images,))  # by itself it would trace twice, and print its errors
    except Exception as error:  # whatever a network is made of, it may still be trained
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        warnings.warn(
            f"TensorBoard will not show the graph of the network ({what}); training goes on", stacklevel=2
        )


def _best(summary: Path) -> dict[str, float]:
    """``map`` and ``map_50`` of the best epoch, as far as ``summary.json`` tells."""
    try:
        best = json.loads(summary.read_text())["best"]
        found = {name: best.get(f"val/{name}") for name in ("map", "map_50")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {name: float(value) for name, value in found.items() if value is not None}
