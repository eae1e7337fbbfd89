import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from yolo_lightning.errors import InputError
from yolo_lightning.model.network import build_network
from yolo_lightning.training.optimizer import (
    OptimizerConfig,
    StepSettings,
    apply_settings,
    batches_per_step,
    build_optimizer,
    learning_rate_factor,
    parameter_groups,
    scaled_weight_decay,
    step_settings,
)

Name = Literal["sgd", "adam", "adamw"]
NAMES: tuple[Name, ...] = ("sgd", "adam", "adamw")


def settings(batch: int, **changes: object) -> StepSettings:
    """Settings of the ``batch``-th batch of a run of 10 epochs of 50 batches of 16 images."""
    config = OptimizerConfig(**changes)  # type: ignore[arg-type]
    return step_settings(
        config, batch_index=batch % 50, epoch=batch // 50, epochs=10, batches_per_epoch=50, batch_size=16
    )


def test_first_batch() -> None:
    assert settings(0) == StepSettings(0.0, 0.1, 0.8, 1, 0.0005)


def test_half_way_through_the_warmup_of_150_batches() -> None:
    # Batch 75 is in epoch 1: rate 0.01 * (0.9 * 0.99 + 0.01) = 0.00901; the accumulation is (1 + 4) / 2.
    now = settings(75)
    assert now.learning_rate == pytest.approx(0.00901 / 2)
    assert now.bias_learning_rate == pytest.approx((0.1 + 0.00901) / 2)
    assert now.momentum == pytest.approx((0.8 + 0.937) / 2)
    assert now.accumulate == 2  # 2.5 rounds to even, as numpy does


def test_after_the_warmup_all_groups_share_one_rate() -> None:
    now = settings(151)  # epoch 3, at whose first batch the warm-up ends
    rate = 0.01 * ((1 - 3 / 10) * 0.99 + 0.01)
    assert (now.learning_rate, now.bias_learning_rate) == pytest.approx((rate, rate))
    assert (now.momentum, now.accumulate) == (0.937, 4)


def test_warmup_lasts_at_least_100_batches_and_can_be_left_out() -> None:
    assert settings(99, warmup_epochs=0.1).momentum < 0.937
    assert settings(101, warmup_epochs=0.1).momentum == 0.937
    assert settings(0, warmup_epochs=0.0).learning_rate == 0.01


def classic_schedule(
    epochs: int, batches: int, lf: Callable[[int], float], start_epoch: int = 0
) -> Iterator[tuple[int, int, float, float, float, float]]:
    """Epoch, batch, bias rate, rate, momentum and accumulation as in train.py of ultralytics/yolov5 7.0.14.

    Its scheduler is torch's LambdaLR, whose ``last_epoch`` train.py sets to ``start_epoch - 1``, and which
    steps at the end of each epoch; up to batch ``warmup`` the rates are overwritten by interpolation.
    """
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [p]} for p in parameters], lr=0.01, momentum=0.937)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lf)
    scheduler.last_epoch = start_epoch - 1
    warmup = max(round(3.0 * batches), 100)
    accumulate = 1.0
    for epoch in range(start_epoch, epochs):
        for batch in range(batches):
            done = batch + batches * epoch
            if done <= warmup:
                accumulate = max(1, np.interp(done, [0, warmup], [1, 64 / 16]).round())
                for group, start in zip(optimizer.param_groups, (0.1, 0.0), strict=True):
                    end = group["initial_lr"] * lf(epoch)
                    group["lr"] = np.interp(done, [0, warmup], [start, end])
                    group["momentum"] = np.interp(done, [0, warmup], [0.8, 0.937])
            bias, weight = optimizer.param_groups
            optimizer.step()
            yield epoch, batch, bias["lr"], weight["lr"], weight["momentum"], accumulate
        scheduler.step()


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("batches", [7, 40, 50, 101])  # the warm-up ends within an epoch, or with its start
def test_every_batch_has_the_rates_of_the_classic_scheduler(
    schedule: Literal["linear", "cosine"], batches: int
) -> None:
    def linear(epoch: int) -> float:
        return (1 - epoch / 30) * (1.0 - 0.01) + 0.01

    def cosine(epoch: int) -> float:
        return ((1 - math.cos(epoch * math.pi / 30)) / 2) * (0.01 - 1) + 1

    config = OptimizerConfig(schedule=schedule)
    for epoch, batch, *expected in classic_schedule(30, batches, linear if schedule == "linear" else cosine):
        now = step_settings(
            config, batch_index=batch, epoch=epoch, epochs=30, batches_per_epoch=batches, batch_size=16
        )
        found = (now.bias_learning_rate, now.learning_rate, now.momentum, now.accumulate)
        assert found == pytest.approx(expected, rel=1e-12), (epoch, batch)
    if schedule == "linear":
        assert now.learning_rate == pytest.approx(0.00076)


def test_cosine_schedule() -> None:
    config = OptimizerConfig(schedule="cosine", final_learning_rate_fraction=0.2)
    assert learning_rate_factor(config, 0, 8) == 1
    assert learning_rate_factor(config, 4, 8) == pytest.approx(0.6)
    assert learning_rate_factor(config, 2, 8) == pytest.approx(0.6 + 0.4 * math.cos(math.pi / 4))
    assert learning_rate_factor(config, 8, 8) == pytest.approx(0.2)


@pytest.mark.parametrize(("batch_size", "expected"), [(16, 4), (64, 1), (48, 1), (100, 1), (1, 64), (24, 3)])
def test_batches_per_step(batch_size: int, expected: int) -> None:
    assert batches_per_step(batch_size, 64) == expected


def test_weight_decay_follows_the_images_of_a_step() -> None:
    config = OptimizerConfig()
    assert scaled_weight_decay(config, 16) == pytest.approx(0.0005)  # 4 x 16 images
    assert scaled_weight_decay(config, 128) == pytest.approx(0.001)  # 128 images
    assert scaled_weight_decay(config, 24) == pytest.approx(0.0005 * 72 / 64)  # 3 x 24 images


def test_groups_of_yolov5n() -> None:
    # 57 convolutions with a norm and 3 of the head, which alone have a bias of their own.
    network = build_network("yolov5n", 80)
    sizes = {kind: len(parameters) for kind, parameters in parameter_groups(network).items()}
    assert sizes == {"bias": 60, "weight": 60, "norm": 57}
    assert sum(sizes.values()) == len(list(network.parameters()))


def test_frozen_parameters_are_left_out() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    network[0].weight.requires_grad_(False)
    assert {k: len(v) for k, v in parameter_groups(network).items()} == {"bias": 2, "weight": 0, "norm": 1}


def test_only_convolution_weights_decay() -> None:
    optimizer = build_optimizer(build_network("yolov5n", 2), OptimizerConfig(), batch_size=16, fused=False)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.0005, 0.0]
    assert all(group["nesterov"] for group in optimizer.param_groups)


def test_a_step_is_nesterov_momentum_with_decay() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 2.0)
    config = OptimizerConfig(learning_rate=0.1, momentum=0.5, weight_decay=0.25)
    for fused in (False, True):
        nn.init.constant_(network.weight, 2.0)
        optimizer = build_optimizer(network, config, batch_size=64, fused=fused)
        apply_settings(optimizer, StepSettings(0.1, 0.9, 0.5, 1, 0.25))
        network.weight.grad = torch.tensor([[1.0]])
        optimizer.step()
        # g = 1 + 0.25 * 2 = 1.5, velocity 1.5, step g + 0.5 * 1.5 = 2.25
        assert network.weight.item() == pytest.approx(2.0 - 0.1 * 2.25)


def test_settings_reach_the_groups() -> None:
    optimizer = build_optimizer(build_network("yolov5n", 2), OptimizerConfig(), batch_size=16, fused=True)
    apply_settings(optimizer, StepSettings(0.02, 0.07, 0.9, 4, 0.001))
    assert [group["lr"] for group in optimizer.param_groups] == [0.07, 0.02, 0.02]
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.001, 0.0]


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_adam_has_the_momentum_as_beta1(name: Any, kind: type[torch.optim.Optimizer]) -> None:
    config = OptimizerConfig(name=name, learning_rate=0.001)
    optimizer = build_optimizer(build_network("yolov5n", 2), config, batch_size=16, fused=True)
    assert type(optimizer) is kind
    apply_settings(optimizer, StepSettings(0.0005, 0.0007, 0.9, 4, 0.001))
    assert {group["betas"] for group in optimizer.param_groups} == {(0.937, 0.999)}
    assert [group["lr"] for group in optimizer.param_groups] == [0.0007, 0.0005, 0.0005]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.001, 0.0]


@pytest.mark.parametrize(
    "wrong", [{"learning_rate": 0}, {"momentum": 1}, {"weight_decay": -1}, {"nominal_batch_size": 0}]
)
def test_values_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"model.optimizer.{next(iter(wrong))}"):
        OptimizerConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("saved", NAMES)
@pytest.mark.parametrize("own", NAMES)
def test_the_state_of_an_optimizer_of_another_name_is_refused(own: Name, saved: Name) -> None:
    """AdamW would take that of Adam, and train as Adam."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before, after = (
        build_optimizer(network, OptimizerConfig(name=name), batch_size=64, fused=False)
        for name in (saved, own)
    )
    network(torch.rand(2, 3, 4, 4)).sum().backward()
    before.step()
    if own == saved:
        after.load_state_dict(before.state_dict())
    else:
        with pytest.raises(InputError, match=f"name is {own}, but {saved} in the run to resume"):
            after.load_state_dict(before.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_no_momentum(name: Name) -> None:
    """The first step of sgd is that of the gradient alone."""
    network = nn.Conv2d(1, 1, 1, bias=False)
    config = OptimizerConfig(name=name, momentum=0.0, weight_decay=0.0)
    optimizer = build_optimizer(network, config, batch_size=64, fused=False)
    before = network.weight.detach().clone()
    for _ in range(2):
        network.weight.grad = torch.ones_like(network.weight)
        optimizer.step()
    torch.testing.assert_close(network.weight.detach(), before - 0.02)
