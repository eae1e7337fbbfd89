"""The training step without Lightning: what the module does with a batch, to be timed."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ...data.augment import Augmentation
from ...data.batch import Batch, row_mask
from ...model.losses import LossConfigs
from ...model.network import build_network
from ...training.optimizer import OptimizerConfig, build_optimizer
from ...training.step import Prepared, augment, compile_training, gradient_scale
from .candidates import Candidate, StepShape

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class TrainingStep:
    """What the module does with a batch, without Lightning; the optimizer steps each time.

    The weights are drawn from a seed of their own; the global generators stay as they were.

    Args:
        shape: of the step.
        candidate: how to compute it.
        augmentation: for batches that are not prepared yet.

    Attributes:
        epoch: given to the augmentation, which mosaics images of one epoch only.
    """

    def __init__(
        self, shape: StepShape, candidate: Candidate, augmentation: Augmentation | None = None
    ) -> None:
        self.device = torch.device(shape.device)
        self.candidate = candidate
        self.augmentation = augmentation
        self.epoch = 0
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(0)
            network = build_network(shape.architecture, shape.num_classes)
        memory_format = torch.channels_last if candidate.channels_last else torch.contiguous_format
        self.network = network.to(self.device).to(memory_format=memory_format).train()
        self.criterion = network.head.build_loss(LossConfigs())
        cast(nn.Module, self.criterion).to(self.device)
        self.losses = compile_training(network, "default" if candidate.compile else None)
        half = candidate.precision == "16-mixed"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        # A rate so small that the weights, and with them the loss, hardly move.
        config = OptimizerConfig(learning_rate=1e-6)
        self.optimizer = build_optimizer(network, config, batch_size=shape.batch_size, fused=not half)
        self._live = [v for v in network.state_dict().values() if v.is_floating_point()]
        self._average = [value.clone() for value in self._live]

    def __call__(self, data: Batch | Prepared) -> Tensor:
        """Augment a batch, unless that was done, and train on it; the loss stays on the device."""
        prepared = data if isinstance(data, Prepared) else self._augment(data)
        dtype = _AUTOCAST.get(self.candidate.precision)
        images = prepared.images if self.candidate.channels_last else prepared.images.contiguous()
        with torch.autocast(self.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            loss, _ = self.losses(self.network, self.criterion, images, prepared.targets, prepared.mask)
            self.scaler.scale(loss * gradient_scale(len(images), 1)).backward()
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 10.0, foreach=True)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(self._average, self._live, 1e-4)
        return loss.detach()

    def _augment(self, batch: Batch) -> Prepared:
        assert self.augmentation is not None
        return augment(self.augmentation, batch, self.epoch, mosaic=True, after_current=False)


def synthetic_batch(shape: StepShape) -> Batch:
    """A batch of noise with up to eight boxes an image, on the device; always the same."""
    generator = torch.Generator().manual_seed(0)
    images, size = shape.batch_size, shape.image_size
    rows = min(8, shape.label_capacity)
    targets = torch.zeros(images, shape.label_capacity, 5)
    targets[:, :rows, 0] = torch.randint(shape.num_classes, (images, rows), generator=generator).float()
    low = torch.rand(images, rows, 2, generator=generator) * 0.7
    targets[:, :rows, 1:3] = low * size
    targets[:, :rows, 3:5] = (low + 0.02 + 0.28 * torch.rand(images, rows, 2, generator=generator)) * size
    pixels = torch.randint(256, (images, size, size, 3), dtype=torch.uint8, generator=generator)
    batch = Batch(
        images=pixels.permute(0, 3, 1, 2),  # (B, 3, S, S), channels last
        targets=targets,
        count=torch.full((images,), rows),
        index=torch.arange(images),
        image_ids=torch.arange(images),
        original_sizes=torch.full((images, 2), size),
        letterbox=torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(images, 4).contiguous(),
        truth=torch.zeros(images, 0, 7),
        truth_count=torch.zeros(images, dtype=torch.int64),
    )
    on_device = Batch(*(tensor.to(shape.device) for tensor in batch))
    if shape.device_type == "cuda":
        torch.cuda.synchronize(shape.device)  # the augmentation reads it on another stream
    return on_device


def prepare(shape: StepShape, batch: Batch) -> Prepared:
    """A batch as if it had been augmented: float images, and as many label rows as augmented ones have."""
    targets = batch.targets.new_zeros(shape.batch_size, shape.label_rows, 5)
    targets[:, : shape.label_capacity] = batch.targets
    return Prepared(batch.images.float() / 255, targets, row_mask(batch.count, shape.label_rows))


def build_augmentation(shape: StepShape, compiled: bool) -> Augmentation:
    """The augmentation of a shape, on its device."""
    augmentation = Augmentation(shape.augmentation).to(shape.device)
    if compiled:
        augmentation.compile_core()
    return augmentation
