"""A run that resumes within an epoch goes on as if it had never stopped."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from ..errors import InputError
from ..system.lightning_internals import (
    LoopState,
    advance_logging_step,
    is_validation_due,
    make_timed_validation_due,
)
from ..system.streams import run_beside
from ..training.module import YOLOv5

_KEY = "within_epoch"


class MidEpochResumption(Callback):
    """Saves and restores what only matters within an epoch, beside what Lightning keeps.

    The loader keeps its own place (see ``OrderedLoader``), the module its waiting gradients. Here
    are the images that mosaics draw their partners from, which are loaded again, the running means
    of the losses, and the state of the random number generators.

    On another number of ranks, or with another batch size, an epoch goes on with the images that it
    has not seen; it then counts its batches from where so many are left.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] = {}
        self._max_steps = -1

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        assert isinstance(pl_module, YOLOv5)
        gather: Any = pl_module.all_gather
        losses = {name: gather(value).reshape(-1) for name, value in pl_module.running_losses.items()}
        checkpoint[_KEY] = {"losses": losses, "random": random_state()}  # each loss: (ranks,)
        if pl_module.waiting:
            checkpoint[_KEY]["given_again"] = len(pl_module.waiting)
            images = sum(len(each.images) for each in pl_module.waiting) * trainer.world_size
            give_again(LoopState(checkpoint), len(pl_module.waiting), images)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._restored = checkpoint.get(_KEY, {})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hide a limit on steps while the loops are restored.

        With one, Lightning takes every resumption for one within an epoch.
        """
        loop = trainer.fit_loop.epoch_loop
        self._max_steps, loop.max_steps = loop.max_steps, -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, YOLOv5)
        restored, self._restored = self._restored, {}
        if restored:
            self._restore(trainer, pl_module, restored)
        if not (restored.get("validates_first") and _go_back_to_validation(trainer)):
            self._limit_steps(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._limit_steps(trainer)

    def _limit_steps(self, trainer: Trainer) -> None:
        """Bring back the limit that was hidden; also when it is reached, the validation comes first."""
        if not trainer.sanity_checking:
            trainer.fit_loop.epoch_loop.max_steps = self._max_steps

    def _restore(self, trainer: Trainer, pl_module: YOLOv5, restored: dict[str, Any]) -> None:
        set_random_state(restored["random"])
        if not trainer.fit_loop.restarted_mid_epoch:
            return
        pl_module.running_losses = {
            name: (ranks[trainer.global_rank] if len(ranks) == trainer.world_size else ranks.mean()).to(
                pl_module.device
            )
            for name, ranks in restored["losses"].items()
        }
        loader: Any = trainer.train_dataloader
        if not hasattr(loader, "earlier"):
            return  # another data module's
        epoch = trainer.current_epoch
        count_batches_from(trainer, loader.sampler.begins_at(epoch))
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready >= trainer.num_training_batches:
            return  # only the validation is left, and the next epoch draws from its own images

        def remember() -> tuple[torch.Tensor, ...]:
            for batch in loader.earlier(pl_module.augmentation.recent.batches - 1):
                on_device = type(batch)(*(tensor.to(pl_module.device) for tensor in batch))
                pl_module.augmentation.remember(on_device, epoch)
            return ()

        run_beside(pl_module.device, remember, after_current=True)


def give_again(loops: LoopState, batches: int, images: int) -> None:
    """Let a run that resumes be given the last batches again, because nothing is trained on them yet.

    Args:
        loops: state of Lightning's loops, which is changed.
        batches: How many.
        images: In them, on all ranks together.
    """
    for counts in (loops.batches["current"], loops.batches["total"]):
        for name in counts:
            counts[name] -= batches
    loops.logging_step -= batches
    for loader in loops.loaders:
        loader["seen"] -= images


def validate_first(checkpoint: dict[str, Any], random: dict[str, Any]) -> None:
    """Let a run that resumes begin with the validation in which this is saved, and with all of it.

    Lightning goes back to a validation of which a batch was begun, and not ended.

    Args:
        checkpoint: Which is changed.
        random: What :func:`random_state` gave before the validation.
    """
    progress = LoopState(checkpoint).validation_batches
    for counts in (progress["current"], progress["total"]):
        counts.update(ready=1, started=1, processed=0, completed=0)
    progress["is_last_batch"] = False
    checkpoint[_KEY].update(validates_first=True, random=random)


def _go_back_to_validation(trainer: Any) -> bool:
    """Prepare for the validation that was left; False if there is none here by the options of now."""
    # Or what is saved later in the epoch would lead back to this validation again.
    trainer.fit_loop.epoch_loop.val_loop.batch_progress.reset()
    make_timed_validation_due(trainer)
    is_due = is_validation_due(trainer)
    if not is_due:
        advance_logging_step(trainer)
    return is_due


def count_batches_from(trainer: Trainer, batch: int) -> None:
    """Let the epoch that is resumed go on with the batch of that number, from 0."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    progress.ready = progress.started = progress.processed = batch
    # Saved at the end of a batch, not after a validation: Lightning counts that batch when it goes on.
    progress.completed = batch - int(trainer.fit_loop.epoch_loop.restarted_on_train_batch_end)


def random_state() -> dict[str, Any]:
    """The state of Python's, NumPy's and torch's generators, as plain types and tensors."""
    name, keys, *rest = np.random.get_state(legacy=True)
    state = {
        "python": random.getstate(),
        "numpy": (name, [int(key) for key in keys], *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Undo what happened to the generators since :func:`random_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@dataclass(frozen=True)
class Resumption:
    """Where a run goes on.

    Attributes:
        path: Of the checkpoint.
        hyper_parameters: Of the module.
        epochs: Whole ones that are trained.
        batches: Of the next one that are trained, too.
        step: Steps of the optimizer so far.
        purge_step: From which on the curves are going to be logged again.
        validates_first: Whether the last batch was followed by a validation that was not ended.
    """

    path: Path
    hyper_parameters: dict[str, Any]
    epochs: int
    batches: int
    step: int
    purge_step: int
    validates_first: bool

    def __str__(self) -> str:
        if self.batches:
            next_ = ", before its validation" if self.validates_first else ""
            return f"checkpoint {self.path}, in epoch {self.epochs + 1} after batch {self.batches}{next_}"
        return f"checkpoint {self.path}, after epoch {self.epochs}"

    def check_epochs(self, max_epochs: int | None) -> None:
        """Refuse to resume a run for fewer epochs than it has been trained already.

        Raises:
            InputError: it has.
        """
        if max_epochs is not None and 0 <= max_epochs < self.epochs:
            raise InputError(
                f"{self.path}: has been trained for {self.epochs} epochs already, more than "
                f"--trainer.max_epochs {max_epochs}; give more"
            )


def read_resumption(path: Path) -> Resumption:
    """Read what a checkpoint says, without its tensors.

    Raises:
        InputError: It is damaged, or is none of ours.
    """
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        loops = LoopState(contents)
        epoch, batch = loops.epochs["current"], loops.batches["current"]
        within = epoch["started"] > epoch["processed"]
        extra = contents.get("within_epoch", {})
        validates_first = bool(extra.get("validates_first"))
        logged = contents["callbacks"].get("RunRecorder", {}).get("logged_step", -1)
        if within:  # what was logged by then is in the curves, what came later is going to come again
            logged = loops.logging_step
            is_validated = batch.get("completed") == batch["processed"] and not validates_first
            if is_validated or extra.get("given_again"):
                logged += 1  # what was logged with the last batch is in them, too
        return Resumption(
            path=path,
            hyper_parameters=contents["hyper_parameters"],
            epochs=int(epoch["processed"]),
            batches=int(batch["processed"]) if within else 0,
            step=int(contents["global_step"]),
            validates_first=validates_first,
            purge_step=logged if logged >= 0 else int(contents["global_step"]) + 1,
        )
    except Exception as error:
        raise InputError(
            f"{path}: is damaged or is not a checkpoint of yolo-lightning "
            f"({type(error).__name__}); give another, or start from its weights with --model.weights"
        ) from error
