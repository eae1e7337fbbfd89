"""Exponential moving average of the weights, with classic YOLOv5's ramp."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from ..errors import InputError


def ema_decay(updates: int, decay: float = 0.9999, ramp_updates: float = 2000.0) -> float:
    """Decay of update number ``updates`` (from 1): near 0 at first, so that early weights are forgotten."""
    return decay * (1 - math.exp(-updates / ramp_updates))


class ExponentialMovingAverage(Callback):
    """Averages ``module.network``, validates the average, and saves it.

    In a checkpoint ``state_dict`` holds the average, to evaluate and deploy, and ``live_state_dict`` the
    weights that training resumes from. That holds for checkpoints within a validation too.

    Args:
        decay: decay after the ramp, 0..1; 0 turns averaging off.
        ramp_updates: optimizer steps until 63 % of the decay; above 0.

    Raises:
        InputError: a number is out of its range.
    """

    def __init__(self, decay: float = 0.9999, ramp_updates: float = 2000.0) -> None:
        if not 0 <= decay <= 1:
            raise InputError(f"ema.decay is {decay}; give a number from 0 to 1")
        if not ramp_updates > 0:
            raise InputError(f"ema.ramp_updates is {ramp_updates}; give a number above 0")
        self.decay = decay
        self.ramp_updates = ramp_updates
        self.updates = 0
        self._live: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] = {}
        self._set_aside: dict[str, Tensor] = {}
        """Live weights while the network holds the average."""
        self._seen_step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.decay > 0:
            self._live = _state(pl_module)  # the network is on its device by now
            kept = self._average or self._live  # from a checkpoint, or else the initial weights
            self._average = {n: kept[n].to(value.device, copy=True) for n, value in self._live.items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._average or trainer.global_step == self._seen_step:
            return
        self._seen_step = trainer.global_step
        self.updates += 1
        weight = 1 - ema_decay(self.updates, self.decay, self.ramp_updates)
        floating = [name for name, value in self._live.items() if value.is_floating_point()]
        torch._foreach_lerp_([self._average[n] for n in floating], [self._live[n] for n in floating], weight)
        counters = self._live.keys() - set(floating)
        _copy(self._live, {name: self._average[name] for name in counters})

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._average and not self._set_aside:
            self._set_aside = {name: value.clone() for name, value in self._live.items()}
            _copy(self._average, self._live)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._set_aside:
            _copy(self._set_aside, self._live)
            self._set_aside = {}

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_validation_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates = state_dict["updates"]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._average:
            live = self._set_aside or self._live
            checkpoint["live_state_dict"] = {f"network.{name}": value for name, value in live.items()}
            checkpoint["state_dict"] |= {f"network.{name}": value for name, value in self._average.items()}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the average from the network, which has just loaded it, and restore the live weights."""
        if trainer.state.fn != TrainerFn.FITTING or "live_state_dict" not in checkpoint:
            return  # an evaluation keeps the average
        if self.decay > 0:
            self._average = {name: value.clone() for name, value in _state(pl_module).items()}
        saved = checkpoint["live_state_dict"]
        _copy({name.removeprefix("network."): value for name, value in saved.items()}, _state(pl_module))


def _state(pl_module: LightningModule) -> dict[str, Tensor]:
    """Parameters and buffers of the network by name, in its memory, without gradients."""
    network: torch.nn.Module = pl_module.network  # type: ignore[assignment]
    return network.state_dict()


def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    if target:  # one call for all, because each call may hand the interpreter to another thread
        torch._foreach_copy_(list(target.values()), [source[name] for name in target])
