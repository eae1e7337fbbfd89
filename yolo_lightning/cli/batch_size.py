"""The batch of a training against the memory that is there: chosen for ``auto``, refused if it cannot fit."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info

from ..data.augment.multi_scale import training_sizes
from ..data.batch import label_capacity
from ..data.cache_folder import available_memory
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
    job, images = _job(config, memory.device)
    planner = Planner(job)
    if given != "auto":
        _refuse_large_batch(planner, memory, int(given))
        return int(given)
    most = planner.largest_batch(memory.room, min(job.optimizer.nominal_batch_size, images))
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


def _job(config: Any, device: torch.device) -> tuple[Job, int]:
    """The training that the options describe, in its largest shape, and the number of its images."""
    model = config.model.as_dict()
    data = DetectionDataModule(**{**config.data.as_dict(), "batch_size": 1})
    index = data.indices.inspect("train")
    size, extent = data.canvas, model["augmentation"]["multi_scale"]
    if extent:
        with torch.device("meta"):
            stride = build_network(model["architecture"], 1).stride
        size = training_sizes(size, extent, stride)[-1]
    precision = next(name for name in PRECISIONS if name.startswith(str(config.trainer.precision)))
    job = Job(
        architecture=model["architecture"],
        num_classes=model["num_classes"],
        image_size=size,
        precision=precision,
        label_rows=label_capacity(index.most_labels),
        labels_per_image=index.labels_per_image,
        optimizer=OptimizerConfig(**model["optimizer"]),
        on_gpu=device.type == "cuda",
    )
    return job, len(index)
