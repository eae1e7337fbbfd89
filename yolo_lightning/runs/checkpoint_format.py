"""The contents of a checkpoint: its keys, and what is changed in them and read from them.

A checkpoint is a dictionary of tensors and plain values, written by ``torch.save``. ``KEYS`` names every key,
its writers and its readers. This file alone changes what Lightning wrote.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from ..errors import InputError
from ..system.lightning_internals import LoopState
from ..training.hyper_parameters import checked_hyper_parameters
from .best_epoch import MONITOR

FORMAT_VERSION = 1
"""Number to raise when an older yolo-lightning can no longer read what is written."""
KEYS = {
    "format_version": "int, FORMAT_VERSION; missing in older checkpoints. Written and checked here.",
    "state_dict": "{'network.' + classic name: tensor}, the averaged weights, which are the ones to deploy. "
    "Written by Lightning and training/ema.py; read by Lightning and model/weights.py.",
    "live_state_dict": "As state_dict, the weights that training continues from; missing if nothing is "
    "averaged. Written and read by training/ema.py.",
    "accumulation": "Gradients of a step that needs more batches, of the parameters' shapes; {} if there are "
    "none; 'micro_batches': int, parts in which a batch is trained. Written and read by training/module.py.",
    "within_epoch": "{'losses': {name: float (ranks,)}, running means of the losses; 'random': states of the "
    "random generators; 'given_again': int, batches to train again; 'validates_first': True in an aborted "
    "validation}. Written and read by runs/resumption.py, the last key written by runs/interruption.py.",
    "loops": "Lightning's position in epochs and batches, changed by give_again and validate_first.",
    "callbacks": "{name of a callback: its state_dict()}. Written and read by each callback; read_resumption "
    "also reads the state of RunRecorder.",
    "DetectionDataModule": "{'class_ap': [(first epoch, [average precision of each class])]}, for drawing "
    "images; only with data.image_weights. Written and read by data/module.py.",
    "hyper_parameters": "Arguments of YOLOv5, and 'score_thresholds': [float], the confidence of the best F1 "
    "of each class in the last validation; missing before it; and 'image_size': int or [height, width], px. "
    "Written by Lightning; read by read_resumption, model/weights.py and training/module.py.",
    "hparams_name": "str. Written and read by Lightning, as are all keys below.",
    "epoch": "int, number of the epoch, from 0.",
    "global_step": "int, optimizer steps; read_resumption reads it too.",
    "optimizer_states": "[state of the optimizer].",
    "lr_schedulers": "[]: training/optimizer.py computes the learning rate.",
    "pytorch-lightning_version": "str.",
    "MixedPrecision": "State of the gradient scaler; only with 16-mixed.",
}
"""Key -> its type and contents, its writers and its readers."""
WITHIN_EPOCH = "within_epoch"


def check_version(contents: dict[str, Any], where: object) -> None:
    """Refuse a checkpoint of a newer format; ``where`` is its path, for the message.

    Raises:
        InputError: its format is newer than this version of yolo-lightning.
    """
    version = contents.get("format_version", 0)
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise InputError(
            f"{where}: has checkpoint format {version}, but this yolo-lightning reads formats up to "
            f"{FORMAT_VERSION}; update yolo-lightning"
        )


def write_within_epoch(checkpoint: dict[str, Any], **values: Any) -> None:
    """Add values under ``within_epoch`` that are not there yet, and the number of the format."""
    checkpoint["format_version"] = FORMAT_VERSION
    checkpoint[WITHIN_EPOCH] = values | checkpoint.get(WITHIN_EPOCH, {})


def give_again(checkpoint: dict[str, Any], batches: int, images: int) -> None:
    """Let a run that resumes train the last batches again, because their gradients are not in the checkpoint.

    ``images`` counts those in the batches, on all ranks together.
    """
    loops = LoopState(checkpoint)
    for counts in (loops.batches["current"], loops.batches["total"]):
        for name in counts:
            counts[name] -= batches
    loops.logging_step -= batches
    for loader in loops.loaders:
        loader["seen"] -= images
    write_within_epoch(checkpoint, given_again=batches)


def validate_first(checkpoint: dict[str, Any], random: dict[str, Any]) -> None:
    """Let a run that resumes start with the whole validation in which the checkpoint is saved.

    Lightning returns to a validation of which a batch was started and not completed. ``random`` holds the
    states of the random generators before the validation.
    """
    progress = LoopState(checkpoint).validation_batches
    for counts in (progress["current"], progress["total"]):
        counts.update(ready=1, started=1, processed=0, completed=0)
    progress["is_last_batch"] = False
    checkpoint[WITHIN_EPOCH] = checkpoint.get(WITHIN_EPOCH, {}) | {"validates_first": True, "random": random}


def keep_own_paths(checkpoint: dict[str, Any], callbacks: Iterable[Any]) -> None:
    """Take from the states of callbacks that save checkpoints every path but those of their own files.

    Lightning removes the older ones of these files, and whole folders where it takes a path for an address.
    """
    for callback in callbacks:
        state = checkpoint["callbacks"].get(callback.state_key)
        if not (isinstance(callback, ModelCheckpoint) and isinstance(state, dict)):
            continue
        folder = Path(callback.dirpath or "").resolve()

        def is_own(path: Any, folder: Path = folder) -> bool:
            return (
                isinstance(path, str)
                and path.endswith(ModelCheckpoint.FILE_EXTENSION)
                and os.path.isabs(path)
                and os.path.isfile(path)
                and Path(path).resolve().is_relative_to(folder)
            )

        best = state.get("best_k_models")
        kept = {path: score for path, score in best.items() if is_own(path)} if isinstance(best, dict) else {}
        state["best_k_models"] = kept
        for name in ("best_model_path", "last_model_path", "kth_best_model_path"):
            if not is_own(state.get(name)):
                state[name] = ""
        if state["kth_best_model_path"] not in kept:
            state["kth_best_model_path"] = next(iter(kept), "")


@dataclass(frozen=True)
class Resumption:
    """The position that a run resumes from."""

    path: Path
    hyper_parameters: dict[str, Any]
    epochs: int  # whole epochs trained
    batches: int  # batches trained of the next epoch
    step: int  # optimizer steps so far
    purge_step: int  # logger step from which on the curves are logged again
    validates_first: bool  # the aborted validation after the last batch is repeated first
    monitor: str = MONITOR  # metric that chooses best.ckpt

    def __str__(self) -> str:
        if not self.batches:
            return f"checkpoint {self.path}, after epoch {self.epochs}"
        next_ = ", before its validation" if self.validates_first else ""
        return f"checkpoint {self.path}, in epoch {self.epochs + 1} after batch {self.batches}{next_}"

    def check_epochs(self, max_epochs: int | None) -> None:
        """Refuse to resume for fewer epochs than are trained already.

        Raises:
            InputError: ``max_epochs`` is smaller than the epochs trained.
        """
        if max_epochs is not None and 0 <= max_epochs < self.epochs:
            raise InputError(
                f"{self.path}: has been trained for {self.epochs} epochs already, more than "
                f"--trainer.max_epochs {max_epochs}; give more"
            )

    def check_monitor(self, monitor: str) -> None:
        """Refuse to resume with another metric: best.ckpt would be of one and be judged by the other.

        Raises:
            InputError: ``monitor`` is not that of the run.
        """
        if monitor != self.monitor:
            raise InputError(
                f"{self.path}: its run chooses best.ckpt by {self.monitor!r}, not by {monitor!r}; leave "
                "--monitor out, or start a new run from its weights with --model.weights"
            )


def read_resumption(path: Path) -> Resumption:
    """Read the position of a checkpoint without its tensors.

    Raises:
        InputError: the file is damaged, is no checkpoint of yolo-lightning, or has a newer format.
    """
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        check_version(contents, path)
        return _position(path, contents)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: is damaged or is not a checkpoint of yolo-lightning "
            f"({type(error).__name__}); give another, or start from its weights with --model.weights"
        ) from error


def _position(path: Path, contents: dict[str, Any]) -> Resumption:
    loops = LoopState(contents)
    epoch, batch = loops.epochs["current"], loops.batches["current"]
    within = epoch["started"] > epoch["processed"]
    extra = contents.get(WITHIN_EPOCH, {})
    validates_first = bool(extra.get("validates_first"))
    recorded = contents["callbacks"].get("RunRecorder", {})
    logged = recorded.get("logged_step", -1)
    if within:  # the curves hold what was logged so far; later steps are logged again
        logged = loops.logging_step
        is_validated = batch.get("completed") == batch["processed"] and not validates_first
        if is_validated or extra.get("given_again"):
            logged += 1  # they also hold what was logged with the last batch
    return Resumption(
        path=path,
        hyper_parameters=checked_hyper_parameters(contents["hyper_parameters"], path),
        epochs=int(epoch["processed"]),
        batches=int(batch["processed"]) if within else 0,
        step=int(contents["global_step"]),
        validates_first=validates_first,
        monitor=recorded.get("monitor", MONITOR),
        purge_step=logged if logged >= 0 else int(contents["global_step"]) + 1,
    )
