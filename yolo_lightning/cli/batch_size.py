"""The batch of a training against the memory that is there: chosen for ``auto``, refused if it cannot fit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info

from ..data.annotations.index import DatasetIndex
from ..data.augment.multi_scale import training_sizes
from ..data.batch import label_capacity
from ..data.cache_folder import available_memory
from ..data.image_size import as_size, checked_size
from ..data.images.choose_cache import DEVICE_SHARE
from ..data.module import DetectionDataModule
from ..distributed.ddp import count_devices, is_on_gpu, listed_gpus, processes_here
from ..errors import InputError
from ..model.network import build_network
from ..performance.planner.batch import CPU_MARGIN, MARGIN, Planner, room
from ..performance.planner.confirm import step_fits
from ..performance.planner.step import PRECISIONS, Job
from ..training.optimizer import OptimizerConfig


class Memory(NamedTuple):
    """Memory of the device that each process trains on."""

    name: str  # for messages
    bytes: int
    device: torch.device

    @property
    def room(self) -> float:
        """Bytes that the tensors of a training may take."""
        return room(self.bytes / 1e9) if self.device.type == "cuda" else self.bytes * CPU_MARGIN


def find_memory(trainer: Any) -> Memory:
    """The memory of the smallest GPU of a run, or what each of its processes may take of this machine."""
    if not is_on_gpu(trainer.accelerator):
        share = available_memory() // processes_here(trainer)
        return Memory("free memory for a process of this machine", share, torch.device("cpu"))
    count = torch.cuda.device_count()
    gpus = listed_gpus(trainer.devices) or range(count_devices(trainer.devices, count))
    cards = {gpu: torch.cuda.get_device_properties(gpu) for gpu in gpus}
    gpu = min(cards, key=lambda gpu: cards[gpu].total_memory)
    return Memory(cards[gpu].name, cards[gpu].total_memory, torch.device("cuda", gpu))


def settle_batch_size(config: Any) -> int:
    """The batch of each process: as given, if it can fit; for ``auto`` the largest one that the plan fits.

    ``auto`` gives at most the images of an optimizer step, and of the data set. On a GPU the real step of the
    largest shape confirms the plan, or takes a tenth from it.

    Raises:
        InputError: the batch cannot fit into the memory of the GPU, or not even one image can.
    """
    given = config.data.batch_size
    if given != "auto" and not is_on_gpu(config.trainer.accelerator):
        return int(given)  # a CPU swaps, or ends the run with one sentence
    memory = find_memory(config.trainer)
    data = DetectionDataModule(**{**config.data.as_dict(), "batch_size": 1})
    index = data.indices.inspect("train")
    job = job_of(config, index, on_gpu=memory.device.type == "cuda")
    planner = Planner(job)
    if given != "auto":
        _refuse_large_batch(planner, memory, int(given))
        return int(given)
    room_bytes = memory.room - _cached_bytes(config.data, index, memory)
    most = planner.largest_batch(room_bytes, min(job.optimizer.nominal_batch_size, len(index)))
    if memory.device.type == "cuda":
        while most and not step_fits(job, most, memory.device):
            most = most * 9 // 10
    if not most:
        raise InputError(
            f"data.batch_size auto: a step with one image takes {planner.plan(1).peak / 1e9:.2f} GB, and "
            f"{memory.name} has {memory.bytes / 1e9:.2f} GB; give a smaller --data.image_size or "
            "--model.architecture"
        )
    step_gb, memory_gb = planner.plan(most).peak / 1e9, memory.bytes / 1e9
    margin = 1 - (MARGIN if job.on_gpu else CPU_MARGIN)
    rank_zero_info(
        f"batch size: {most}; a step is planned to take {step_gb:.2f} of the {memory_gb:.2f} GB of "
        f"{memory.name}, where {margin:.0%} stay free"
    )
    return most


def _cached_bytes(data: Any, index: DatasetIndex, memory: Memory) -> int:
    """Bytes of the decoded training images, if they may be kept on the GPU beside the steps."""
    size = 3 * math.prod(as_size(data.image_size)) * len(index)
    may = data.cache in ("auto", "device") and size <= DEVICE_SHARE * memory.bytes  # more is never kept there
    return size if may and memory.device.type == "cuda" else 0


def _refuse_large_batch(planner: Planner, memory: Memory, batch_size: int) -> None:
    """Refuse a batch whose tensors alone, without margin and workspace, are more than the memory."""
    step = planner.plan(batch_size).tensors
    if step <= memory.bytes:
        return
    largest = planner.largest_batch(memory.room)
    remedy = "give a smaller --data.image_size or --model.architecture"
    if largest:
        remedy = f"give --data.batch_size {largest}, the largest that fits, or auto"
    raise InputError(
        f"data.batch_size {batch_size} cannot fit: a step takes {step / 1e9:.1f} GB, and {memory.name} has "
        f"{memory.bytes / 1e9:.1f} GB; {remedy}"
    )


def job_of(config: Any, index: DatasetIndex | None, on_gpu: bool) -> Job:
    """The training that the options of ``fit`` describe, in its largest shape.

    Args:
        config: the options; a precision and a number of classes may be missing.
        index: the training split; None plans with pictures of a few labels.
        on_gpu: plan for CUDA.

    Raises:
        InputError: the image size does not suit the network, or the precision is not supported.
    """
    model = config.model.as_dict()
    with torch.device("meta"):
        stride = build_network(model["architecture"], 1).stride
    size = checked_size(config.data.image_size, stride, "data.image_size")
    if extent := model["augmentation"]["multi_scale"]:
        size = training_sizes(size, extent, stride)[-1]
    given = str(config.trainer.precision or "bf16-mixed")
    precision = next((name for name in PRECISIONS if name.startswith(given)), None)
    if precision is None:
        raise InputError(f"trainer.precision {given} is not supported; use {', '.join(PRECISIONS)}")
    classes = 80 if model["num_classes"] is None else model["num_classes"]
    if classes < 1:
        raise InputError(f"model.num_classes is {classes}; give 1 or more")
    job = Job(
        architecture=model["architecture"],
        num_classes=classes,
        image_size=size,
        precision=precision,
        optimizer=OptimizerConfig(**model["optimizer"]),
        on_gpu=on_gpu,
    )
    if index is None:
        return job
    return replace(
        job,
        num_classes=len(index.class_names),
        label_rows=label_capacity(index.most_labels),
        labels_per_image=index.labels_per_image,
    )
