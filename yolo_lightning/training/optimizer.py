"""Optimizer, parameter groups, and the schedule as a pure function of the step.

The recipe is that of ultralytics/yolov5 v7.0 (``train.py`` and ``utils/torch_utils.py``). A *batch* is one
forward and backward pass over all ranks together; an optimizer step follows after ``accumulate`` batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ..errors import InputError


@dataclass(frozen=True)
class OptimizerConfig:
    """Options of optimizer and schedule; the defaults are classic YOLOv5's."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """``sgd`` (with Nesterov momentum), ``adam`` or ``adamw``."""
    learning_rate: float = 0.01
    """Initial learning rate, > 0 (for adam and adamw about 0.001)."""
    final_learning_rate_fraction: float = 0.01
    """Final learning rate as a fraction of the initial one, 0..1."""
    schedule: Literal["linear", "cosine"] = "linear"
    """Decay of the learning rate over the epochs."""
    schedule_epochs: int | None = None
    """Epochs of the decay, by default trainer.max_epochs. To train in several runs, set it to the total."""
    momentum: float = 0.937
    """Momentum of sgd, or beta1 of adam and adamw, 0 to below 1."""
    weight_decay: float = 0.0005
    """L2 penalty of convolution weights at the nominal batch size, >= 0."""
    nominal_batch_size: int = 64
    """Images of an optimizer step; smaller batches are accumulated up to it."""
    joint_loss: bool = False
    """Give the batches of a step the loss of one large batch, divided by all their matches together. They
    wait, augmented, for the last one. By default each is divided by its own matches, as in classic YOLOv5."""
    warmup_epochs: float = 3.0
    """Length of the warm-up in epochs, >= 0; at least 100 batches unless 0."""
    warmup_momentum: float = 0.8
    """Momentum of the first batch, 0..1."""
    warmup_bias_learning_rate: float = 0.1
    """Learning rate of the biases in the first batch (the other parameters start at 0)."""
    gradient_clip_norm: float = 10.0
    """Largest norm of the gradient of a step; 0 turns clipping off."""

    def __post_init__(self) -> None:
        for key in ("learning_rate", "nominal_batch_size", "schedule_epochs"):
            if getattr(self, key) is not None and getattr(self, key) <= 0:
                raise InputError(f"model.optimizer.{key} is {getattr(self, key)}; give a number above 0")
        for key in ("final_learning_rate_fraction", "momentum", "warmup_momentum"):
            if not 0 <= getattr(self, key) <= 1:
                raise InputError(f"model.optimizer.{key} is {getattr(self, key)}; give a number from 0 to 1")
        if self.momentum == 1:
            raise InputError("model.optimizer.momentum is 1; give a number from 0 to below 1")
        for key in ("weight_decay", "warmup_epochs", "warmup_bias_learning_rate", "gradient_clip_norm"):
            if getattr(self, key) < 0:
                raise InputError(f"model.optimizer.{key} is {getattr(self, key)}; give 0 or more")


@dataclass(frozen=True)
class StepSettings:
    """Settings of the optimizer for one batch."""

    learning_rate: float
    bias_learning_rate: float
    momentum: float
    accumulate: int  # batches of an optimizer step
    weight_decay: float  # see scaled_weight_decay


def batches_per_step(batch_size: int, nominal_batch_size: int) -> int:
    """Batches to accumulate after the warm-up, so that a step sees about the nominal number of images."""
    return max(1, round(nominal_batch_size / batch_size))


def scaled_weight_decay(config: OptimizerConfig, batch_size: int) -> float:
    """Weight decay for steps of ``batch_size * accumulate`` images instead of the nominal number."""
    accumulate = batches_per_step(batch_size, config.nominal_batch_size)
    return config.weight_decay * batch_size * accumulate / config.nominal_batch_size


def describe_scaling(config: OptimizerConfig, batch_size: int) -> str:
    """A sentence for the log on accumulation and weight decay, for ``batch_size`` images on all ranks."""
    accumulate = batches_per_step(batch_size, config.nominal_batch_size)
    return (
        f"a step sums {accumulate} batches of {batch_size} images (nominal {config.nominal_batch_size}); "
        f"weight decay {config.weight_decay:g} acts as {scaled_weight_decay(config, batch_size):g}"
    )


def learning_rate_factor(config: OptimizerConfig, epoch: float, epochs: int) -> float:
    """Fraction of the initial learning rate in ``epoch``, from 1 down to the final fraction.

    Both curves reach the final fraction at ``epoch == epochs``, and stay there.
    """
    final = config.final_learning_rate_fraction
    epoch = min(epoch, epochs)
    if config.schedule == "cosine":
        return (1 - math.cos(epoch * math.pi / epochs)) / 2 * (final - 1) + 1
    return (1 - epoch / epochs) * (1 - final) + final


def step_settings(
    config: OptimizerConfig,
    *,
    batch_index: int,
    epoch: int,
    epochs: int,
    batches_per_epoch: int,
    batch_size: int,
    progress: float | None = None,
) -> StepSettings:
    """Settings for a batch of ``batch_size`` images on all ranks together; epochs are counted from 0.

    ``progress``, the done share 0..1 of a schedule by the clock, takes the place of the epoch in the decay.

    The classic scheduler lags: it steps at the end of an epoch, to the rate of that epoch. So an epoch after
    the warm-up has the rate of the one before. The warm-up computes its rate itself, and the rest of the
    epoch in which it ends keeps that.
    """
    batch = batch_index + batches_per_epoch * epoch
    warmup = max(round(config.warmup_epochs * batches_per_epoch), 100) if config.warmup_epochs > 0 else 0
    lag = 1 if epoch * batches_per_epoch > warmup else 0
    position = epoch - lag if progress is None else progress * epochs
    rate = config.learning_rate * learning_rate_factor(config, position, epochs)
    weight_decay = scaled_weight_decay(config, batch_size)
    if batch > warmup or warmup == 0:
        accumulate = batches_per_step(batch_size, config.nominal_batch_size)
        return StepSettings(rate, rate, config.momentum, accumulate, weight_decay)
    progress = batch / warmup
    return StepSettings(
        learning_rate=_interpolate(progress, 0.0, rate),
        bias_learning_rate=_interpolate(progress, config.warmup_bias_learning_rate, rate),
        momentum=_interpolate(progress, config.warmup_momentum, config.momentum),
        accumulate=max(1, round(_interpolate(progress, 1.0, config.nominal_batch_size / batch_size))),
        weight_decay=weight_decay,
    )


def _interpolate(progress: float, start: float, end: float) -> float:
    return start + (end - start) * progress


def parameter_groups(network: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Trainable parameters in the groups of classic YOLOv5: biases, decaying weights, norms."""
    groups: dict[str, list[nn.Parameter]] = {"bias": [], "weight": [], "norm": []}
    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                kind = "bias" if name == "bias" else "norm" if isinstance(module, norms) else "weight"
                groups[kind].append(parameter)
    return groups


def build_optimizer(
    network: nn.Module, config: OptimizerConfig, *, batch_size: int, fused: bool
) -> torch.optim.Optimizer:
    """Optimizer over three groups: biases, decaying weights, norms.

    It refuses the state of an optimizer of another name with an InputError.

    Args:
        network: network to train.
        config: the recipe.
        batch_size: images of a batch, all ranks together; it scales the weight decay.
        fused: one fused kernel for all parameters; a gradient scaler cannot unscale before it.
    """
    decay = scaled_weight_decay(config, batch_size)
    settings = [
        {"params": parameters, "weight_decay": decay if kind == "weight" else 0.0}
        for kind, parameters in parameter_groups(network).items()
    ]
    kernel = {"fused": True} if fused else {"foreach": True}
    rate, momentum = config.learning_rate, config.momentum
    optimizer: torch.optim.Optimizer
    if config.name == "sgd":
        nesterov = momentum > 0  # torch refuses it otherwise
        optimizer = torch.optim.SGD(settings, lr=rate, momentum=momentum, nesterov=nesterov, **kernel)
    else:
        kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
        optimizer = kind(settings, lr=rate, betas=(momentum, 0.999), **kernel)
    optimizer.register_load_state_dict_pre_hook(_refuse_other_name)
    return optimizer


def _refuse_other_name(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    own, saved = _name_of(optimizer.param_groups[0]), _name_of(state["param_groups"][0])
    if own != saved:
        raise InputError(
            f"model.optimizer.name is {own}, but {saved} in the run to resume, whose averages of gradients "
            "have another meaning; leave it out, or start from the weights with --model.weights"
        )


def _name_of(group: dict[str, Any]) -> str:
    """``OptimizerConfig.name`` of a parameter group; AdamW is torch's Adam with another decay."""
    return "sgd" if "momentum" in group else "adamw" if group["decoupled_weight_decay"] else "adam"


def apply_settings(optimizer: torch.optim.Optimizer, settings: StepSettings) -> None:
    """Write learning rates, weight decay and (for sgd) momentum into the parameter groups.

    The weight decay of a restored optimizer may be that of another batch size, world size or recipe. Groups
    after the first three were added by a callback, such as ``BackboneFinetuning``, which sets their rates.
    """
    own = biases, weights, _ = optimizer.param_groups[:3]
    weights["weight_decay"] = settings.weight_decay
    for group in own:
        group["lr"] = settings.bias_learning_rate if group is biases else settings.learning_rate
        if "momentum" in group:
            group["momentum"] = settings.momentum
