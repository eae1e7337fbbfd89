"""TensorBoard's charts, texts, hyper-parameters and graph of a run."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from ...errors import InputError
from ...model.architecture import short_name
from ...runs.run_config import CONFIG
from ...runs.run_files import read_bytes, read_content
from ...system.lightning_internals import logging_step
from ...training.contracts import detection_data, detection_module
from ..metric_names import loss_title
from .writer import writer_of

TEXTS = {CONFIG: "yaml", "environment.json": "json"}
"""Files of the run directory that are shown -> their language."""
METRICS = ("val/map", "val/map_50", "best/map", "best/map_50")
"""Scalars beside the hyper-parameters."""
_CELLS = 2
"""Side of the traced image, in cells of the coarsest map."""


class Dashboard(Callback):
    """Writes the charts, texts, hyper-parameters and the graph of a run to TensorBoard.

    At the start: the custom charts (see :func:`layout`), ``config.yaml`` and ``environment.json`` as texts
    ``run/…``, the hyper-parameters, and the graph of the network, traced as a copy on the CPU. At the end:
    ``best/map`` and ``best/map_50`` of ``summary.json``, which stand beside the hyper-parameters with
    ``val/map`` and ``val/map_50``. All of it goes to the event file of the scalars.

    Missing files are left out. Only the first process writes.

    Args:
        directory: the run directory.
        graph: log the graph of the network, unless the run is resumed.
    """

    def __init__(self, directory: str | Path, graph: bool = True) -> None:
        self.directory = Path(directory)
        self.graph = graph
        self._texts_are_due = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        writer = writer_of(trainer)
        if writer is None:
            return
        self._texts_are_due = True
        module = detection_module(pl_module)
        writer.add_custom_scalars(layout(module.criterion.parts if module else ()))
        *begin, _ = hparams(hyper_parameters(trainer, pl_module), dict.fromkeys(METRICS, 0.0))
        for summary in begin:
            writer._get_file_writer().add_summary(summary)
        if self.graph and module and logging_step(trainer) == 0:
            # On this thread: another would make torch keep more threads, which slows every step.
            write_graph(writer, module.network)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Log the files; before the first batch they are still those of the earlier start."""
        if not self._texts_are_due:
            return
        self._texts_are_due = False
        writer = writer_of(trainer)
        for name, language in TEXTS.items():
            with suppress(InputError):  # left by another run
                if writer and (contents := read_bytes(self.directory, name)):
                    text = f"```{language}\n{contents.decode(errors='replace').rstrip()}\n```"
                    writer.add_text(f"run/{name}", text, logging_step(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the best metrics, even if nothing was left to train: such a start drops its last step."""
        writer = writer_of(trainer)
        if writer is not None:
            for name, value in _best(self.directory).items():
                writer.add_scalar(f"best/{name}", value, logging_step(trainer))
            *_, end = hparams({}, {})
            writer._get_file_writer().add_summary(end)


def layout(parts: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Charts for ``add_custom_scalars``: category -> title -> ``["Multiline", [pattern of tags, …]]``.

    Args:
        parts: names of the parts of the loss.
    """
    losses = {loss_title(part): [f"(train|val)/{part}_loss"] for part in parts}
    of_gpu = r"gpu/(\d+/)?"  # all GPUs together, and each of several
    charts: dict[str, dict[str, list[str]]] = {
        "is it learning?": {
            "mean average precision": ["val/map", "val/map_50", "val/map_75"],
            "precision, recall, F1": ["val/precision", "val/recall", "val/f1"],
            **losses,
            "loss, all parts": ["val/loss"],
            "mean average precision by size": ["val/map_(small|medium|large)"],
            "mean average precision by class": ["val/map_class/.*"],
            "F1 by class": ["val/f1_class/.*"],
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
    # Without the $ TensorBoard would match the beginning of a tag.
    return {
        category: {title: ["Multiline", [f"{tag}$" for tag in tags]] for title, tags in titles.items()}
        for category, titles in charts.items()
    }


def hyper_parameters(trainer: Trainer, pl_module: LightningModule) -> dict[str, str | float]:
    """Return the options by which runs are compared, as far as they are known."""
    given: Mapping[str, Any] = pl_module.hparams
    data, module = detection_data(trainer), detection_module(pl_module)
    weights, size = module and module.weights, data and data.image_size
    found = {
        "architecture": short_name(str(given.get("architecture"))),
        "weights": Path(str(weights)).name if weights else "none",
        "classes": given.get("num_classes"),
        "image_size": str(size) if isinstance(size, list) else size,
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
    """Copy a network to the CPU in evaluation mode, not compiled and with zeros as weights."""
    # A copy of the whole network would take memory of the GPU before it is moved to the CPU.
    memo: dict[int, Any] = {
        id(value): nn.Parameter(torch.zeros_like(value, device="cpu"), requires_grad=False)
        for value in network.parameters()
    }
    memo |= {id(value): torch.zeros_like(value, device="cpu") for value in network.buffers()}
    return copy.deepcopy(network, memo).eval()


@torch.no_grad()
def write_graph(writer: SummaryWriter, network: nn.Module) -> None:
    """Log the graph of a network, traced as a copy on the CPU; an error is only a warning."""
    # Never reset: other threads may change the filters at the same time.
    for message in ("`torch.jit.trace", "The input to trace is already a ScriptModule"):
        warnings.filterwarnings("ignore", message=message)
    try:
        side = _CELLS * max(network.strides)  # type: ignore[arg-type]
        images, copied = torch.zeros(1, 3, side, side), empty_copy(network)
        list_of_maps = copied.forward
        copied.forward = lambda images: tuple(list_of_maps(images))  # tracing accepts no lists
        traced = torch.jit.trace(copied, (images,), check_trace=False)
        writer.add_graph(traced, (images,))  # with a network it would trace twice, and print errors
    except Exception as error:  # a network that cannot be traced can still be trained
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        warnings.warn(
            f"TensorBoard will not show the graph of the network ({what}); training continues", stacklevel=2
        )


def _best(directory: Path) -> dict[str, float]:
    """Read ``map`` and ``map_50`` of the best epoch from ``summary.json``; empty if it has none."""
    try:
        best = (read_content(directory, "summary.json") or {}).get("best", {})
    except InputError as error:  # left by another run
        warnings.warn(f"TensorBoard will not show the best epoch: {error}", stacklevel=2)
        return {}
    return {name: best[f"val/{name}"] for name in ("map", "map_50") if best.get(f"val/{name}") is not None}
