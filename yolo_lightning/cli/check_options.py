"""What is checked and made definite in the options before anything is built from them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args

from ..data.module import PATH_OPTIONS, DetectionDataModule
from ..distributed.ddp import processes_here
from ..errors import InputError
from ..model.weights import load_weights
from ..training.module import YOLOv5
from ..training.precision import Precision

_PLACES = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR"),
    *("SLURM_STEP_ID", "JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"),
)
"""Variables by one of which a launcher, or a person, tells a process that it is one of several."""
PRECISIONS = (*get_args(Precision), "32", "bf16", "16")


def make_paths_absolute(config: Any) -> None:
    """Expand ``~`` and anchor every path, so that the saved configuration holds from any folder.

    Args:
        config: the options of a subcommand, changed in place.
    """
    for name in PATH_OPTIONS:
        if config.data[name]:
            config.data[name] = _absolute(config.data[name])
    source = config.data.predict_source
    if source:
        config.data.predict_source = [_absolute(s) for s in ([source] if isinstance(source, str) else source)]
    if config.model.weights:
        config.model.weights = _absolute(config.model.weights)
    if Path(config.model.architecture).suffix in {".yaml", ".yml"}:
        config.model.architecture = _absolute(config.model.architecture)
    config.runs_dir = _absolute(config.runs_dir)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def refuse_impossible(config: Any) -> None:
    """Refuse options of the Trainer that this package cannot honour, and say what to use instead.

    Args:
        config: the options of a subcommand.

    Raises:
        InputError: such an option is set.
    """
    trainer = config.trainer
    if trainer.accumulate_grad_batches != 1:
        raise InputError(
            "trainer.accumulate_grad_batches is not used here: batches are accumulated up to "
            "--model.optimizer.nominal_batch_size images a step; set that"
        )
    if trainer.gradient_clip_val is not None:
        raise InputError(
            "trainer.gradient_clip_val is not used here; set --model.optimizer.gradient_clip_norm"
        )
    if str(trainer.precision or "32-true") not in PRECISIONS:
        raise InputError(
            f"trainer.precision {trainer.precision} is not supported; use 32-true, bf16-mixed or 16-mixed"
        )
    if trainer.barebones:
        raise InputError("trainer.barebones leaves out the checkpoints and the metrics; set it to false")
    is_time = not isinstance(trainer.val_check_interval, (int, float, type(None)))
    if is_time and processes_here(trainer) * int(trainer.num_nodes) > 1:
        raise InputError(
            f"trainer.val_check_interval {trainer.val_check_interval} is a time, which the clocks of "
            "several processes reach in different batches; give a number of batches or a share of an epoch"
        )






def refuse_absent_nodes(config: Any) -> None:
    """Refuse to wait for nodes on which nothing was started; the options of a resumed run may ask for them.

    Raises:
        InputError: there are several nodes, and no launcher started this process.
    """
    nodes = int(config.trainer.num_nodes)
    if nodes > 1 and not any(os.environ.get(name) for name in _PLACES):
        raise InputError(
            f"trainer.num_nodes is {nodes}, but this process was started alone and would wait; "
            "start the same command on every node with srun or torchrun, or give --trainer.num_nodes 1"
        )


def read_data(data: DetectionDataModule, stage: str, trainer: Any) -> None:
    """Read what a stage needs, and refuse to evaluate on more processes than there are images.

    Lightning raises on those without an image alone, while the others wait for them.

    Raises:
        InputError: the data is missing or wrong, or has too few images.
    """
    data.build_indices(stage)
    processes = trainer.num_devices * trainer.num_nodes
    for split in data.indices.keys() & {"val", "test"}:
        images = len(data.indices[split])
        if images < processes and getattr(trainer, f"limit_{split}_batches") != 0:
            raise InputError(f"{split} has {images} images for {processes} processes; use at most {images}")


def check_values(config: Any) -> None:
    """Let the network and the data refuse a value now, and not when the step has been measured for it.

    Raises:
        InputError: a value is out of its range.
    """
    YOLOv5(**config.model.as_dict())
    DetectionDataModule(**config.data.as_dict())


def check_source(config: Any, subcommand: str) -> None:
    """Refuse to begin without data, to predict without weights, or with weights that cannot be read.

    Raises:
        InputError: an option that says where they are is missing, or the file of the weights is unsound.
    """
    if subcommand == "predict":
        if not config.data.predict_source:
            raise InputError(
                "data.predict_source is not set; give --data.predict_source with images or folders"
            )
        if not (config.ckpt_path or config.model.weights):
            raise InputError("there is nothing to predict with; give --ckpt_path or --model.weights")
    elif not (config.data.root or config.data.train_annotations or config.data.val_annotations):
        raise InputError("data.root is not set; give --data.root with the folder of your data set")
    if config.model.weights:
        load_weights(config.model.weights)  # again when the network is built, but that can be an hour later
