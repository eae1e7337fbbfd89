"""Options of a subcommand: checked and made definite before anything is built from them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from ..data.annotations.source import DataSource
from ..data.image_size import as_size
from ..data.loading.sources import is_stream
from ..data.module import PATH_OPTIONS, DetectionDataModule
from ..distributed.ddp import is_on_gpu, listed_gpus, processes_here, refuse_absent_gpus
from ..distributed.facts import FILE_SYSTEM_S
from ..distributed.failure import begin
from ..errors import InputError
from ..inference.official_weights import fetch_official_weights
from ..model.architecture import is_name, self_contained, short_name
from ..model.losses import LossConfigs
from ..model.network import build_network
from ..model.weights import LoadedWeights, load_weights
from ..runs.best_epoch import checked_monitor
from ..runs.checkpoint_files import newest_whole
from ..runs.checkpoint_format import read_resumption
from ..runs.directory import DEFAULT_NAME, begun_run_directory, find_checkpoint, run_directory_of
from ..training.compilation import compiler_obstacle
from ..training.hyper_parameters import NO_THRESHOLDS, architecture_of
from ..training.module import YOLOv5
from ..training.precision import (
    Precision,
    default_precision,
    fp16_is_sound,
    has_native_bf16,
    usable_precision,
)

_PRECISIONS = (*get_args(Precision), "32", "bf16", "16")
_LAUNCHER_VARIABLES = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR"),
    *("SLURM_STEP_ID", "JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"),
)
"""Any of these variables tells a process that it is one of several."""
_SOON_S = 5.0
"""Time without an answer of a file system after which a line says so, in s."""
_SETTLED = {
    "verbose": False,  # EpochProgress prints the table
    "return_predictions": False,  # they are on disk; those of a large folder would fill the memory
    "weights_only": True,  # a checkpoint is data, not a program
}
"""Options of Lightning that are not left to the user."""
_DEFAULT_ARCHITECTURE = inspect.signature(YOLOv5).parameters["architecture"].default


@dataclass(frozen=True)
class RunStart:
    """State from which a run starts; the defaults are a new run."""

    checkpoint: Path | None = None
    directory: Path | None = None
    """Run directory that is continued; None for a new one."""
    step: int = 0
    """Step of the checkpoint."""
    purge_step: int | None = None
    """Step from which TensorBoard drops the earlier curves."""


def resolve_options(config: Any, subcommand: str) -> RunStart:
    """Check all options, and replace what is relative, implied or ``auto`` by definite values.

    Args:
        config: options of the subcommand, changed in place.
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        InputError: an option is wrong.
    """
    _refuse_trainer_options(config.trainer)
    if subcommand == "fit" and config.profile and config.trainer.profiler:
        raise InputError("--profile and --trainer.profiler both record the steps; leave one of them out")
    if config.seeds != 1:
        raise InputError(f"seeds is {config.seeds}; give --seeds to fit alone, and on the command line")
    config.monitor = checked_monitor(config.monitor)
    _make_paths_absolute(config)
    _refuse_silent_places(config)
    start = find_start(config, subcommand)
    weights = _check_sources(config, subcommand)
    waits = subcommand == "fit" and config.data.batch_size == "auto"  # for cli/batch_size.py
    data = DetectionDataModule(**config.data.as_dict() | ({"batch_size": 1} if waits else {}))
    if subcommand != "predict":
        _read_classes(config, data.source, subcommand, start.checkpoint)
    if subcommand == "fit":
        checked_monitor(config.monitor, config.model.class_names, _loss_parts(config))
    if subcommand in ("validate", "test") and weights:
        _refuse_other_classes(weights, config)
    for name in _SETTLED.keys() & vars(config).keys():
        config[name] = _SETTLED[name]
    YOLOv5(**config.model.as_dict())  # built for its checks of the values
    settle_step(config, is_training=subcommand == "fit")
    return start


def _refuse_trainer_options(trainer: Any) -> None:
    """Refuse options of the Trainer that this package does not support, and name the remedy."""
    refuse_absent_gpus(trainer.accelerator, trainer.devices)
    if trainer.accumulate_grad_batches != 1:
        raise InputError(
            "trainer.accumulate_grad_batches is not used here: batches are accumulated up to "
            "--model.optimizer.nominal_batch_size images a step; set that"
        )
    if trainer.gradient_clip_val is not None:
        raise InputError(
            "trainer.gradient_clip_val is not used here; set --model.optimizer.gradient_clip_norm"
        )
    if str(trainer.precision or "32-true") not in _PRECISIONS:
        raise InputError(
            f"trainer.precision {trainer.precision} is not supported; use 32-true, bf16-mixed or 16-mixed"
        )
    if trainer.barebones:
        raise InputError("trainer.barebones leaves out the checkpoints and the metrics; set it to false")
    is_time = not isinstance(trainer.val_check_interval, (int, float, type(None)))
    if is_time and processes_here(trainer) * int(trainer.num_nodes) > 1:
        raise InputError(
            f"trainer.val_check_interval {trainer.val_check_interval} is a time, which the clocks of several "
            "processes reach in different batches; give a number of batches or a share of an epoch"
        )


def refuse_absent_nodes(trainer: Any) -> None:
    """Refuse several nodes if no launcher has started this process: it would wait for the others.

    Raises:
        InputError: there are several nodes, and no launcher.
    """
    nodes = int(trainer.num_nodes)
    if nodes > 1 and not any(os.environ.get(name) for name in _LAUNCHER_VARIABLES):
        raise InputError(
            f"trainer.num_nodes is {nodes}, but this process was started alone and would wait; "
            "start the same command on every node with srun or torchrun, or give --trainer.num_nodes 1"
        )


def _make_paths_absolute(config: Any) -> None:
    """Make every path absolute and expand ``~``, so that the saved configuration holds from any folder."""
    model, data = config.model, config.data
    for name in PATH_OPTIONS:
        if data[name]:
            data[name] = _absolute(data[name])
    if (sources := data.predict_source) not in (None, ""):
        names = map(str, sources if isinstance(sources, list) else [sources])
        data.predict_source = [name if is_stream(name) else _absolute(name) for name in names]
    if model.weights and not is_name(model.weights):
        model.weights = _absolute(model.weights)
    model.architecture = self_contained(os.path.expanduser(model.architecture))
    config.runs_dir = _absolute(config.runs_dir)


def _refuse_silent_places(config: Any) -> None:
    """Refuse a folder or file whose file system never answers, instead of waiting for it."""
    places = {f"data.{name}": config.data[name] for name in PATH_OPTIONS}
    places |= {"model.weights": config.model.weights, "runs_dir": config.runs_dir}
    for option, place in places.items():
        answer = begin(partial(os.path.exists, place or ""))
        if not wait([answer], _SOON_S).done:
            rank_zero_warn(f"{place}: no answer yet; waiting up to {FILE_SYSTEM_S:.0f} s for --{option}")
        if not wait([answer], FILE_SYSTEM_S - _SOON_S).done:
            raise InputError(
                f"{place}: no answer within {FILE_SYSTEM_S:.0f} s (a network file system that hangs?); "
                f"mount it again or correct --{option}"
            )


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def find_start(config: Any, subcommand: str) -> RunStart:
    """Find the checkpoint of ``--ckpt_path``, and take the options of the network from it.

    Raises:
        InputError: there is none, it has another network than the options, or ``fit`` cannot resume it.
    """
    if not config.ckpt_path:
        return RunStart()
    name = config.run_name or DEFAULT_NAME
    found = find_checkpoint(config.ckpt_path, config.runs_dir, name)
    if found is None and subcommand != "fit":
        raise InputError(
            f"--ckpt_path auto: no run of '{name}' in {config.runs_dir} has a checkpoint; "
            "train first, or give a path"
        )
    if found is None:
        config.ckpt_path = None
        rank_zero_info(f"there is no checkpoint of '{name}' in {config.runs_dir} yet; training starts")
        return RunStart(directory=begun_run_directory(config.runs_dir, name), purge_step=0)
    checkpoint = newest_whole(found, rank_zero_warn)
    config.ckpt_path = str(checkpoint)
    resumed = read_resumption(checkpoint)
    rank_zero_info(str(resumed))
    directory = run_directory_of(checkpoint)
    # The configuration of the run comes before the user's options, so that a difference is the user's.
    default = None if directory else _DEFAULT_ARCHITECTURE
    asked, known = config.model.architecture, resumed.hyper_parameters
    given = asked if asked != _DEFAULT_ARCHITECTURE else None
    known["architecture"] = architecture_of(known, given, checkpoint)
    if asked not in (default, known["architecture"]):
        held, other = map(short_name, (known["architecture"], asked))
        raise InputError(
            f"{checkpoint}: holds {'another' if held == other else f'a {held}, not a'} {other}; "
            "leave --model.architecture out"
        )
    for option in ("architecture", "num_classes", "class_names", "category_ids", "channels_last"):
        config.model[option] = known.get(option, config.model[option])
    config.model.weights = None  # the checkpoint replaces them, and the file may be gone
    if subcommand == "predict" and config.model.score_threshold == "auto" and "score_thresholds" not in known:
        raise InputError(f"{checkpoint}: {NO_THRESHOLDS}")
    if subcommand != "fit":
        return RunStart(checkpoint, step=resumed.step)
    if config.data.batch_size == "auto":  # planned once for the whole run
        config.data.batch_size = known.get("batch_size") or "auto"
    config.model.auto_anchor = False  # the checkpoint has its anchors
    if config.deadline is None:
        resumed.check_epochs(config.trainer.max_epochs)
    if directory:
        resumed.check_monitor(config.monitor)
    return RunStart(checkpoint, directory, resumed.step, resumed.purge_step)


def _check_sources(config: Any, subcommand: str) -> LoadedWeights | None:
    """Check that data and weights are given, and read the weights if they do not come from a checkpoint."""
    data, model = config.data, config.model
    if subcommand != "predict" and not (data.root or data.train_annotations or data.val_annotations):
        raise InputError("data.root is not set; give --data.root with the folder of your data set")
    if subcommand == "predict" and not data.predict_source:  # a list by now
        raise InputError("data.predict_source is not set; give --data.predict_source with images or folders")
    if subcommand == "predict" and not (config.ckpt_path or model.weights):
        raise InputError("no weights given; pass --ckpt_path or --model.weights")
    if subcommand == "predict" and model.score_threshold == "auto" and not config.ckpt_path:
        raise InputError(f"{model.weights}: {NO_THRESHOLDS}")
    if model.weights and is_name(model.weights):
        model.weights = _fetch_weights(model.weights, model.architecture)
    # The network loads them again, but only after the data was read.
    return load_weights(model.weights) if model.weights else None


def _fetch_weights(name: str, architecture: str) -> str:
    """Find official weights by name, unless the model is another of the official ones."""
    if is_name(architecture) and architecture != name:
        raise InputError(
            f"model.weights {name} does not fit model.architecture {architecture}; give --model.architecture "
            f"{name}, or --model.weights {architecture}"
        )
    return str(fetch_official_weights(name))


def _loss_parts(config: Any) -> Sequence[str]:
    """Parts of the loss of the network; none if no part of a loss is monitored."""
    if not config.monitor.endswith("_loss"):
        return ()
    head = build_network(config.model.architecture, config.model.num_classes).head
    return head.build_loss(LossConfigs()).parts


def _refuse_other_classes(weights: LoadedWeights, config: Any) -> None:
    """Refuse to judge weights by classes that they do not know: their rows would be random."""
    wanted = config.model.num_classes
    if weights.num_classes not in (None, wanted):
        raise InputError(
            f"{weights.path}: has {weights.num_classes} classes but {config.data.root} has {wanted}, and "
            "nothing is trained here; give weights of these classes, or train with 'fit'"
        )


def _read_classes(config: Any, source: DataSource, subcommand: str, checkpoint: Path | None) -> None:
    """Take the classes from the data, so that the saved configuration holds them."""
    data, model = config.data, config.model
    names = list(source.classes(("test",) if subcommand == "test" else ("val", "train"))[0])
    if model.num_classes not in (None, len(names)):
        raise InputError(
            f"{data.root}: has {len(names)} classes but {checkpoint or 'model.num_classes'} "
            f"has {model.num_classes}; use the data set that belongs to it"
            + (", or give --data.single_cls true" if model.num_classes == 1 else "")
        )
    if checkpoint and names != model.class_names:
        rank_zero_warn(f"{data.root}: its classes have other names than those of {checkpoint}")
    model.num_classes, model.class_names = len(names), names


def settle_step(config: Any, is_training: bool) -> None:
    """Fill in what the options leave open, so that equal options on equal machines give equal numbers.

    Training takes the precision of ``default_precision`` and keeps activations channels last; the module
    decides what to compile. Evaluation uses bfloat16 on a GPU that computes in it, else fp32.

    Raises:
        InputError: the network is to be compiled although its batch norms are synchronised.
    """
    trainer, model = config.trainer, config.model
    on_gpu = is_on_gpu(trainer.accelerator)
    if not is_training:
        if trainer.precision is None and on_gpu:
            trainer.precision = "bf16-mixed" if has_native_bf16("cuda") else "32-true"
        return
    if trainer.sync_batchnorm:  # a synchronised batch norm waits for the device and breaks the graph
        if model.compile not in ("auto", "augmentation", False):
            raise InputError(
                f"model.compile is {model.compile}, but networks with synchronised batch norms are not "
                "compiled; set --model.compile augmentation or --trainer.sync_batchnorm false"
            )
        if on_gpu and model.compile == "auto":
            model.compile = False if compiler_obstacle("cuda") else "augmentation"
    precision_reason = order_reason = "as given"
    gpus = listed_gpus(trainer.devices) or [*range(torch.cuda.device_count())] or [0]
    if trainer.precision is None:
        trainer.precision, why = default_precision(f"cuda:{gpus[0]}" if on_gpu else "cpu")
        precision_reason = f"because {why}"
    if on_gpu:  # each process tests on its own GPU, because it keeps some memory there
        device = f"cuda:{gpus[int(os.environ.get('LOCAL_RANK', 0)) % len(gpus)]}"
        trainer.precision, warning = usable_precision(
            trainer.precision,
            device,
            lambda: fp16_is_sound(
                device, model.architecture, model.num_classes, as_size(config.data.image_size)
            ),
        )
        if warning:
            rank_zero_warn(warning)
    if model.channels_last == "auto":
        model.channels_last, order_reason = True, "by rule"
    order = "channels last" if model.channels_last else "channels first"
    rank_zero_info(f"step: {trainer.precision} {precision_reason}, {order} {order_reason}")


def read_data(data: DetectionDataModule, stage: str, trainer: Any) -> None:
    """Read the annotations of a stage, and refuse more processes than there are images to evaluate.

    Lightning raises only on the processes without an image, and the others wait for them.

    Raises:
        InputError: the data is missing or wrong, or has too few images.
    """
    data.build_indices(stage)
    processes = trainer.num_devices * trainer.num_nodes
    for split in data.indices.keys() & {"val", "test"}:
        if not data.indices[split].most_labels:
            rank_zero_warn(
                f"{split} has no label, so no metric can be computed"
                + (", and best.ckpt is only the newest epoch" if stage == "fit" else "")
            )
        images = len(data.indices[split])
        if images < processes and getattr(trainer, f"limit_{split}_batches") != 0:
            raise InputError(f"{split} has {images} images for {processes} processes; use at most {images}")
