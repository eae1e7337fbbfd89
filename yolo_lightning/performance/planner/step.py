"""The training step and a validation batch, traced with fake tensors: memory by part, and operators."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ...data.augment import Augmentation, AugmentationConfig
from ...data.augment.augmentation import label_room
from ...data.image_size import Size, mean_side
from ...model.losses import LossConfigs
from ...model.network import DetectionNetwork, build_network
from ...training.optimizer import OptimizerConfig, batches_per_step, build_optimizer
from ...training.step import training_losses
from .allocator import MIB
from .trace import Operator, Trace

PARTS = (
    *("weights", "gradients", "optimizer", "ema", "activations", "augmentation", "labels", "validation"),
    "workspace",
)
"""Parts of the memory, in the order in which they are shown."""
PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Type of the activations of each precision, as the Trainer names it; None is float32 throughout."""
_LIBRARIES = 32 * MIB
"""Workspace of cuDNN and cuBLAS for any batch, at most. :func:`library_workspace` is fitted to readings of
YOLOv5s on an A100 (yolov5#5092), and of YOLOv5n and m on an RTX 3070 (yolov5#9287)."""


@dataclass(frozen=True)
class Job:
    """A training whose memory and speed are asked for."""

    architecture: str = "yolov5n"
    num_classes: int = 80
    image_size: Size = (640, 640)  # height and width in px
    precision: str = "bf16-mixed"  # one of PRECISIONS
    label_rows: int = 32  # room for labels of an image, before mosaic
    labels_per_image: float = 8.0  # mean
    on_gpu: bool = True  # with what CUDA's allocator and libraries take beside the tensors
    optimizer: OptimizerConfig = OptimizerConfig()


@dataclass(frozen=True)
class StepPlan:
    """Memory in bytes that a training needs of a card, and its arithmetic."""

    batch_size: int
    parts: dict[str, int]  # by PARTS, at the moment with the most; of the validation what it takes beyond
    stages: dict[int, int]  # activations by the number of the block that made them
    operators: list[Operator]  # of one batch: network, loss, backward

    @property
    def peak(self) -> int:
        """All parts together."""
        return sum(self.parts.values())

    @property
    def tensors(self) -> int:
        """Tensors of a training step alone."""
        return self.peak - self.parts["workspace"] - self.parts["validation"]


def trace_step(job: Job, batch_size: int) -> StepPlan:
    """Trace two batches with their optimizer steps, and a validation batch, without computing them.

    Network, loss and optimizer are the real ones. The augmentation is compiled on a GPU, so only its results
    count. A network that is compiled keeps fewer activations than these.

    Raises:
        InputError: the architecture is unknown.
    """
    mode = FakeTensorMode()
    network = build_fake(job, mode)
    with mode:
        return _follow(network, job, batch_size)


def run_step(job: Job, batch_size: int) -> StepPlan:
    """Compute what :func:`trace_step` traces, on torch's default device; the images are black.

    Raises:
        RuntimeError: the memory is used up.
    """
    network = build_network(job.architecture, job.num_classes).to(memory_format=torch.channels_last)
    return _follow(network, job, batch_size)


def _follow(network: DetectionNetwork, job: Job, batch_size: int) -> StepPlan:
    """Train two batches and validate one, and note the memory of their tensors."""
    with Trace("weights") as trace:
        trace.note(list(network.state_dict().values()))
        with trace.doing("ema"):
            average = [value.clone() for value in network.state_dict().values()]
        with trace.doing("augmentation"):
            ring = _ring(job, batch_size)
        operators = _train(network, job, batch_size, trace)
        peak, reserved = trace.peak, trace.reserved
        _validate(network.eval(), job, batch_size, trace)
        del average, ring
    stages = {int(name.split()[1]): size for name, size in peak.items() if name.startswith("block")}
    parts = {name: peak[name] for name in PARTS}
    parts["activations"] += sum(stages.values())
    if job.on_gpu:
        parts["validation"] = trace.reserved - reserved
        parts["workspace"] = reserved - peak.total() + library_workspace(operators, parts["weights"])
    else:
        parts["validation"] = trace.peak.total() - peak.total()
    return StepPlan(batch_size, parts, dict(sorted(stages.items())), operators)


def build_fake(job: Job, mode: FakeTensorMode) -> DetectionNetwork:
    """The network with fake parameters, channels last."""
    network = build_network(job.architecture, job.num_classes).to(memory_format=torch.channels_last)
    for module in network.modules():
        for values in (module._parameters, module._buffers):
            kept = {name: value for name, value in values.items() if value is not None}
            values.update({name: mode.from_tensor(value) for name, value in kept.items()})  # type: ignore[misc]
    return network


def library_workspace(operators: list[Operator], weights: int) -> int:
    """Bytes that cuDNN and cuBLAS take beside the tensors of a step; ``weights`` are the network's bytes."""
    # For tensor cores cuDNN copies the maps of a convolution, in forward and in backward.
    maps = max((op.bytes for op in operators if op.name == "convolution"), default=0)
    return 2 * maps + min(_LIBRARIES, weights * 5 // 4)


def _ring(job: Job, batch_size: int) -> list[Tensor]:
    """The images that mosaics draw from, packed, and the batches that are copied ahead, uint8."""
    images = Augmentation(AugmentationConfig()).recent.capacity(batch_size, job.image_size)
    pixels = math.prod(job.image_size)
    ring = torch.empty(images * pixels, dtype=torch.int32)
    labels = torch.empty(images, job.label_rows, 5)
    return [ring, labels, *(torch.empty(3 * batch_size * pixels, dtype=torch.uint8) for _ in range(2))]


def planned_room(job: Job, batch_size: int) -> int:
    """Rows of the table of labels in a batch that has the fullest image beside as many labels as usual."""
    if not job.on_gpu:  # losses list only candidates that match; tests hold this number against real steps
        return max(16, math.ceil(batch_size * job.labels_per_image))
    labels = math.ceil(4 * batch_size * job.labels_per_image) + job.label_rows
    return label_room(labels, batch_size, job.labels_per_image, most=4 * batch_size * job.label_rows)


def _train(network: DetectionNetwork, job: Job, batch_size: int, trace: Trace) -> list[Operator]:
    """Trace two batches; the operators of the second."""
    criterion = network.head.build_loss(LossConfigs())
    criterion.image_size_px = mean_side(job.image_size)
    is_fused = job.precision != "16-mixed"
    optimizer = build_optimizer(network, job.optimizer, batch_size=batch_size, fused=is_fused)
    waits = batches_per_step(batch_size, job.optimizer.nominal_batch_size) > 1
    hooks = [
        block.register_forward_pre_hook(partial(_enter_block, trace, number))
        for number, block in enumerate(network.model)
    ]
    for _ in range(2):
        with trace.doing("augmentation"):
            images = torch.zeros(batch_size, 3, *job.image_size)
            images = images.contiguous(memory_format=torch.channels_last)
        with trace.doing("labels"):
            room = planned_room(job, batch_size)
            targets, mask = torch.zeros(room, 6), torch.ones(room, dtype=torch.bool)
        trace.operators.clear()
        with trace.doing("activations"):
            with _autocast(job, images):
                loss, _ = training_losses(network, criterion, images, targets, mask)
            trace.purpose = "activations"
            (loss * batch_size).backward()
        operators = list(trace.operators)
        trace.move([value.grad for value in network.parameters() if value.grad is not None], "gradients")
        del loss, images, targets, mask
        with trace.doing("optimizer"):
            torch.nn.utils.clip_grad_norm_(
                network.parameters(), job.optimizer.gradient_clip_norm, foreach=True
            )
            optimizer.step()
        if not waits:
            optimizer.zero_grad()
    for hook in hooks:
        hook.remove()
    return operators


def _autocast(job: Job, images: Tensor) -> torch.autocast:
    half = PRECISIONS[job.precision]
    return torch.autocast(images.device.type, half, enabled=half is not None)


def _enter_block(trace: Trace, number: int, *_: Any) -> None:
    trace.purpose = f"block {number}"


@torch.no_grad()
def _validate(network: DetectionNetwork, job: Job, batch_size: int, trace: Trace) -> None:
    """Trace a batch of images a stride larger, and the candidates of its suppression."""
    height, width = (side + network.stride for side in job.image_size)
    with trace.doing("validation"):
        live = [value.clone() for value in network.state_dict().values()]  # while the average is in use
        images = torch.zeros(batch_size, 3, height, width)
        with _autocast(job, images):
            maps = network(images)
        boxes, scores = network.head.decode(maps)
        above = scores[0] > 0.001
        pairs = torch.empty(2 * above.numel(), dtype=torch.int64)  # an untrained network is above in all
        del live, images, maps, boxes, scores, above, pairs
