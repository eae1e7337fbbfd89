"""Precision, memory order and compilation where they were left open: chosen by rules."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from ..distributed.ddp import is_on_gpu, listed_gpus
from ..errors import InputError
from ..training.compilation import compiler_obstacle
from ..training.precision import default_precision, has_native_bf16


def settle_step(config: Any, is_training: bool) -> None:
    """Fill in what the options leave open, so that equal options on equal machines give equal numbers.

    Training takes the precision of ``default_precision`` and keeps activations channels last; the module
    decides what to compile. Evaluation uses bfloat16 on a GPU that computes in it, else fp32.

    Args:
        config: options of a subcommand, changed in place.
        is_training: true for ``fit``.

    Raises:
        InputError: the network is to be compiled although its batch norms are synchronised.
    """
    trainer, model = config.trainer, config.model
    on_gpu = is_on_gpu(trainer.accelerator)
    if not is_training:
        if trainer.precision is None and on_gpu:
            trainer.precision = "bf16-mixed" if has_native_bf16("cuda") else "32-true"
        return
    if trainer.sync_batchnorm:
        _compile_around_synchronised_norms(model, on_gpu)
    precision_reason = order_reason = "as given"
    if trainer.precision is None:
        first = (listed_gpus(trainer.devices) or [0])[0]
        trainer.precision, why = default_precision(f"cuda:{first}" if on_gpu else "cpu")
        precision_reason = f"because {why}"
    if model.channels_last == "auto":
        model.channels_last, order_reason = True, "by rule"
    order = "channels last" if model.channels_last else "channels first"
    rank_zero_info(f"step: {trainer.precision} {precision_reason}, {order} {order_reason}")


def _compile_around_synchronised_norms(model: Any, on_gpu: bool) -> None:
    """Compile only the augmentation: a synchronised batch norm waits for the device and breaks the graph."""
    if model.compile not in ("auto", "augmentation", False):
        raise InputError(
            f"model.compile is {model.compile}, but networks with synchronised batch norms are not "
            "compiled; set --model.compile augmentation or --trainer.sync_batchnorm false"
        )
    if on_gpu and model.compile == "auto":
        model.compile = False if compiler_obstacle("cuda") else "augmentation"
