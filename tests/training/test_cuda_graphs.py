"""CUDA graphs of the step, with a stand-in for capture: static memory that each replay overwrites."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from tests.support.small_network import write_small_yaml
from yolo_lightning import DetectionDataModule, YOLOv5
from yolo_lightning.model.losses import DetectionLoss, LossConfigs
from yolo_lightning.model.network import DetectionNetwork, build_network
from yolo_lightning.training.compilation import Compilation
from yolo_lightning.training.cuda_graphs import keep_gradients, prove_gradients
from yolo_lightning.training.optimizer import OptimizerConfig
from yolo_lightning.training.step import training_losses


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, capture: Capture, loss: Tensor, *values: Tensor) -> Tensor:
        ctx.capture = capture
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> Any:
        memory, fresh = ctx.capture.memory, ctx.capture.fresh
        for static, gradient in zip(memory, fresh, strict=True):
            static.copy_(gradient * factor)
        return None, None, *(static.detach() for static in memory)  # no other reference: it becomes .grad


class Capture:
    """Right losses whose parts and gradients lie in memory that the next call overwrites."""

    memory: list[Tensor]

    def __init__(self, losses: Callable[..., Any]) -> None:
        self.losses, self.parts = losses, {}

    def __call__(self, network: nn.Module, *arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        values = [value for value in network.parameters() if value.requires_grad]
        loss, parts = self.losses(network, *arguments)
        self.fresh = torch.autograd.grad(loss, values)
        if [each.shape for each in getattr(self, "memory", [])] != [each.shape for each in values]:
            self.memory = [torch.empty_like(value) for value in values]
            self.parts = {name: part.clone() for name, part in parts.items()}
        for name, part in parts.items():
            self.parts[name].copy_(part)
        return _Replay.apply(self, loss.detach(), *values), self.parts


class Stale(Capture):
    """A capture that adds nothing to a gradient that waits: it puts the new one in its place."""

    def __call__(self, network: nn.Module, *arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        found = super().__call__(network, *arguments)
        network.zero_grad(set_to_none=False)
        return found


def fails(*_: Any) -> Any:
    raise RuntimeError("capture is not permitted\nhere")


@pytest.fixture(params=[True, False], ids=["anchors", "anchor-free"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[DetectionNetwork, DetectionLoss]:
    torch.manual_seed(0)
    network = build_network(write_small_yaml(tmp_path, request.param), 3)
    return network, network.head.build_loss(LossConfigs())


def proved(losses: Callable[..., Any], model: tuple[DetectionNetwork, DetectionLoss]) -> tuple[bool, str]:
    return prove_gradients(losses, *model, image_size=(64, 96), is_half=False, autocast=nullcontext)


def test_right_gradients_are_accepted(model: tuple[DetectionNetwork, DetectionLoss]) -> None:
    is_right, why = proved(keep_gradients(training_losses), model)
    assert is_right and "0.00% for one batch and 0.00% for accumulated batches (tolerance 5%)" in why


def test_memory_that_is_overwritten_is_told_from_what_is_kept(
    model: tuple[DetectionNetwork, DetectionLoss],
) -> None:
    is_right, why = proved(Capture(training_losses), model)
    assert not is_right and "0.00% for one batch" in why and " 0.00% for accumulated" not in why
    assert proved(keep_gradients(Capture(training_losses)), model)[0]


def test_gradients_that_do_not_add_up_are_refused(model: tuple[DetectionNetwork, DetectionLoss]) -> None:
    is_right, why = proved(keep_gradients(Stale(training_losses)), model)
    assert not is_right and "0.00% for one batch" in why and " 0.00% for accumulated" not in why


def test_gradients_that_are_not_finite_are_refused(model: tuple[DetectionNetwork, DetectionLoss]) -> None:
    def losses(*arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = training_losses(*arguments)
        return loss * torch.nan, parts

    assert not proved(losses, model)[0]


def test_a_capture_that_fails_is_refused(model: tuple[DetectionNetwork, DetectionLoss]) -> None:
    assert proved(fails, model) == (
        False,
        "its CUDA graphs fail here (RuntimeError: capture is not permitted)",
    )


@pytest.mark.parametrize("losses", [keep_gradients(Capture(training_losses)), fails])
def test_the_test_leaves_everything_as_it_was(
    model: tuple[DetectionNetwork, DetectionLoss], losses: Callable[..., Any]
) -> None:
    before = deepcopy([part.state_dict() for part in model])
    generator = torch.get_rng_state()
    proved(losses, model)
    assert torch.equal(torch.get_rng_state(), generator)
    for part, state in zip(model, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in part.state_dict().items())
    assert all(value.grad is None for part in model for value in part.parameters())


def fit(folder: Path, root: Path, epochs: int = 2) -> YOLOv5:
    """Two batches accumulate into a step."""
    torch.manual_seed(0)
    module = YOLOv5(
        write_small_yaml(folder, True), compile=False, optimizer=OptimizerConfig(nominal_batch_size=8)
    )
    runner = Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0, limit_val_batches=0,
        limit_train_batches=4, default_root_dir=folder,
    )  # fmt: skip
    runner.fit(module, DetectionDataModule(str(root), image_size=64, batch_size=4, num_workers=0))
    return module


@pytest.mark.parametrize(
    ("capture", "mode", "said"),
    [
        (Capture, "reduce-overhead", "compile: reduce-overhead, because the gradients of its CUDA graphs"),
        (Stale, "default", "compile: default instead of reduce-overhead, because the gradients of its CUDA"),
        (
            lambda _: fails,
            "default",
            "compile: default instead of reduce-overhead, because its CUDA graphs fail",
        ),
    ],
)
def test_a_training_is_the_eager_one_whatever_the_test_says(
    tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch, capture: Any, mode: str, said: str
) -> None:
    eager = fit(tmp_path, shapes)
    told: list[str] = []
    module = "yolo_lightning.training.module"
    decision = Compilation("reduce-overhead", False, "a stand-in", records_graphs=True)
    monkeypatch.setattr(f"{module}.decide_compilation", lambda *_: decision)
    monkeypatch.setattr(f"{module}.rank_zero_info", told.append)
    monkeypatch.setattr(
        "torch.compile", lambda losses, mode="default", **_: losses if mode == "default" else capture(losses)
    )
    found = fit(tmp_path, shapes)
    assert found.compilation.mode == mode
    assert found.compilation.records_graphs == (mode == "reduce-overhead")
    assert sum(line.startswith(said) for line in told) == 1
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=0, atol=0, msg=name)
    assert found.running_losses.keys() == eager.running_losses.keys()
    for name, part in eager.running_losses.items():
        torch.testing.assert_close(found.running_losses[name], part, rtol=0, atol=0)


def test_several_processes_use_the_default_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    module = YOLOv5("yolov5n", num_classes=2, compile=False)
    decision = Compilation("reduce-overhead", False, "a stand-in", records_graphs=True)
    monkeypatch.setattr("yolo_lightning.training.module.decide_compilation", lambda *_: decision)
    monkeypatch.setattr("torch.compile", lambda losses, **_: partial(losses))
    module.configure_model()
    monkeypatch.setattr(YOLOv5, "trainer", type("Two", (), {"world_size": 2, "precision": "32-true"})())
    module._prove_graphs()
    assert (module.compilation.mode, module.compilation.records_graphs) == ("default", False)
