"""Precision, memory format and compilation, where they were left to ``auto``."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from ..data.augment import AugmentationConfig
from ..distributed.ddp import is_on_gpu, listed_gpus
from ..errors import InputError
from ..performance.auto.choose import has_native_bf16
from ..performance.auto.for_all_ranks import NOMINAL_LABELS, choose_for_run
from ..performance.doctor.candidates import StepShape
from ..training.compilation import compiler_obstacle


def settle_step(config: Any, is_training: bool) -> None:
    """Settle what was left open: for training by what is fastest here, else by what the device can.

    Args:
        config: the options of a subcommand, changed in place.
        is_training: whether it is ``fit``.
    """
    on_gpu = is_on_gpu(config.trainer.accelerator)
    if not is_training:
        if config.trainer.precision is None and on_gpu:
            config.trainer.precision = "bf16-mixed" if has_native_bf16("cuda") else "32-true"
        return
    model = config.model
    gpus = listed_gpus(config.trainer.devices) or [0]
    shape = StepShape(
        model.architecture,
        model.num_classes,
        config.data.image_size,
        config.data.batch_size,
        NOMINAL_LABELS,
        f"cuda:{gpus[0]}" if on_gpu else "cpu",
        AugmentationConfig(**model.augmentation.as_dict()),
    )
    if config.trainer.sync_batchnorm:  # its layer waits for the device, which no one graph can
        if model.compile not in ("auto", "augmentation", False):
            raise InputError(
                f"model.compile is {model.compile}, but networks with synchronised batch norms are not "
                "compiled; set --model.compile augmentation or --trainer.sync_batchnorm false"
            )
        model.compile = "augmentation" if on_gpu and model.compile == "auto" else model.compile
    choice = choose_for_run(
        shape,
        config.trainer.precision,
        model.channels_last,
        model.compile,
        nodes=int(config.trainer.num_nodes),
        announce=rank_zero_info,
    )
    rank_zero_info(f"step: {choice.reason}")
    config.trainer.precision = choice.candidate.precision
    model.channels_last = choice.candidate.channels_last
    if model.compile == "auto" and choice.candidate.compile:
        model.compile = "default"
    elif model.compile == "auto" and on_gpu:  # where the rule of the module would compile
        model.compile = False if compiler_obstacle("cuda") else "augmentation"
