"""A training step on a GPU that is not here: fake tensors have shapes and a device, but no values.

What depends on a value, and so waits for the GPU, raises. The backward pass asks for a CUDA context, so it
runs on a fake CPU.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from tests.support.small_network import write_small_yaml
from yolo_lightning import YOLOv5
from yolo_lightning.data.augment import Augmentation, AugmentationConfig
from yolo_lightning.data.batch import Batch, HostLabels
from yolo_lightning.model.losses import LossConfigs
from yolo_lightning.model.network import build_network
from yolo_lightning.training.ema import ExponentialMovingAverage
from yolo_lightning.training.optimizer import OptimizerConfig, apply_settings, build_optimizer, step_settings
from yolo_lightning.training.step import Prepared, add_gradients, add_to_means, training_losses

BATCH, SIDE_PX, ROWS = 2, 64, 16
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.fixture(autouse=True)
def cuda_seems_to_be_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let autocast and the gradient scaler work for CUDA, which they look for."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_, **__: True)
    # The host computes it from numbers of its own, which would be fake here.
    monkeypatch.setattr(Augmentation, "room", lambda *_: ROWS)


def make_fake(module: nn.Module, device: str) -> None:
    """Replace parameters and buffers by fake ones on a device; a fake mode is active."""
    for part in module.modules():
        for values in (part._parameters, part._buffers):
            for name, value in values.items():
                if value is not None:
                    fake = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
                    values[name] = fake.requires_grad_(value.requires_grad)  # type: ignore[assignment]


def fake_batch(device: str) -> Batch:
    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    images = empty(BATCH, SIDE_PX, SIDE_PX, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    count, index, image_ids, truth_count = (empty(BATCH, dtype=torch.int64) for _ in range(4))
    sizes, letterbox, truth = empty(BATCH, 2, dtype=torch.int64), empty(BATCH, 4), empty(BATCH, 0, 7)
    targets = empty(BATCH, ROWS, 5)
    known = HostLabels(*(torch.zeros(BATCH, dtype=torch.int64) for _ in range(2)))
    return Batch(images, targets, count, index, image_ids, sizes, letterbox, truth, truth_count, known)


def train_steps(
    architecture: str,
    device: str,
    precision: str,
    mosaic: bool = True,
    windows: tuple[int, ...] = (1, 2),
    **changes: float,
) -> set[torch.dtype]:
    """Optimizer steps over so many batches each, with all that they do in a run; the types of the maps."""
    network = build_network(architecture, 3).to(memory_format=torch.channels_last)
    criterion = network.head.build_loss(LossConfigs())
    augmentation = Augmentation(AugmentationConfig(**changes))  # type: ignore[arg-type]
    module = YOLOv5(architecture, num_classes=3, compile=False)
    found: set[torch.dtype] = set()
    criterion.register_forward_pre_hook(lambda _, args: found.update(each.dtype for each in args[0]))
    with FakeTensorMode():
        for part in (network, criterion, augmentation):
            make_fake(part, device)
        module.network = network
        recipe = OptimizerConfig()
        # torch's fused SGD has no fake version for CUDA: it is one kernel that returns nothing.
        fused = device == "cpu" and precision != "fp16"
        optimizer = build_optimizer(network, recipe, batch_size=BATCH, fused=fused)
        scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")
        average, trainer = ExponentialMovingAverage(), SimpleNamespace(global_step=0)
        average.on_fit_start(trainer, module)  # type: ignore[arg-type]
        average.on_train_start(trainer, module)  # type: ignore[arg-type]

        def backward(loss: Tensor) -> None:
            scaled = scaler.scale(loss * BATCH)
            if device == "cpu":
                scaled.backward()
                return
            for value in network.parameters():
                value.grad = torch.empty_like(value) if value.grad is None else value.grad + value

        def prepare() -> Prepared:
            if device == "cuda":
                return Prepared(*augmentation(fake_batch(device), 0, mosaic))
            images = torch.empty(BATCH, 3, SIDE_PX, SIDE_PX).to(memory_format=torch.channels_last)
            return Prepared(images, torch.empty(ROWS, 6), torch.empty(ROWS, dtype=torch.bool))

        means: dict[str, Tensor] = {}
        for window in windows:
            apply_settings(optimizer, step_settings(
                recipe, batch_index=0, epoch=0, epochs=1, batches_per_epoch=8, batch_size=BATCH,
            ))  # fmt: skip
            for _ in range(window):
                batch = prepare()
                with torch.autocast(device, TYPES[precision]):
                    parts = add_gradients(training_losses, network, criterion, [batch], backward, joint=False)
                means = add_to_means(means, parts, 1)
            if scaler.is_enabled():
                scaler.unscale_(optimizer)
            module.on_before_optimizer_step(optimizer)
            # GradScaler.step reads whether a gradient was infinite, the only value that a step waits for.
            optimizer.step()
            scaler.update()
            optimizer.zero_grad()
            trainer.global_step += 1
            average.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    assert average.updates == len(windows)
    assert {value.device.type for value in means.values()} == {device}
    return found


@pytest.fixture(params=[True, False], ids=["anchors", "anchor-free"])
def architecture(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return write_small_yaml(tmp_path, request.param)


@pytest.mark.parametrize(("precision", "mosaic"), [("bf16", True), ("fp16", False)])
def test_nothing_in_a_step_on_cuda_depends_on_a_value(
    architecture: str, precision: str, mosaic: bool
) -> None:
    assert train_steps(architecture, "cuda", precision, mosaic) == {TYPES[precision]}


def test_nor_do_mixup_cutmix_perspective_and_flips(tmp_path: Path) -> None:
    changes = {"mixup": 0.5, "cutmix": 0.5, "perspective": 0.0005, "degrees": 10, "shear": 5, "bgr": 0.5}
    assert train_steps(write_small_yaml(tmp_path, True), "cuda", "bf16", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", TYPES)
def test_nor_does_the_backward_pass(architecture: str, precision: str) -> None:
    assert train_steps(architecture, "cpu", precision, windows=(2,)) == {TYPES[precision]}


@pytest.mark.parametrize("read", [lambda value: value.item(), lambda value: value[value > 0]])
def test_a_step_that_reads_a_value_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Tensor], Any]
) -> None:
    def clip(self: YOLOv5, optimizer: torch.optim.Optimizer) -> None:
        read(next(self.network.parameters()).sum())

    monkeypatch.setattr(YOLOv5, "on_before_optimizer_step", clip)
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        train_steps(write_small_yaml(tmp_path, True), "cuda", "bf16")
