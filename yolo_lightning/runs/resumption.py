"""The callback that restores a run within an epoch, so that it continues as if it had never stopped."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from ..data.batch import move
from ..data.image_size import as_size
from ..system.lightning_internals import advance_logging_step, is_validation_due, make_timed_validation_due
from ..system.streams import run_beside
from ..training.module import YOLOv5
from .checkpoint_format import WITHIN_EPOCH, check_version, give_again, keep_own_paths, write_within_epoch


class MidEpochResumption(Callback):
    """Saves and restores the state that only matters within an epoch, beside Lightning's.

    The loader saves its own position (see ``OrderedLoader``), and the module its gradients. This callback
    saves the running means of the losses and the states of the random generators, and loads the images again
    from which mosaics draw their partners.

    With another number of ranks or another batch size, an epoch continues with the images that it has not
    seen, and its batches are numbered so that the last one is the last of an epoch.
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
        write_within_epoch(checkpoint, losses=losses, random=random_state())  # each loss: (ranks,)
        if pl_module.waiting:
            last, waiting = trainer.fit_loop.batch_idx, len(pl_module.waiting)
            epoch, batches = trainer.current_epoch, 0
            while waiting:  # those left out among them are passed again, too
                waiting -= (epoch, last - batches) not in pl_module.left_out
                batches += 1
            images = batches * len(pl_module.waiting[0].images) * trainer.world_size
            give_again(checkpoint, batches, images)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        check_version(checkpoint, trainer.ckpt_path or "the checkpoint")
        if trainer.state.fn == TrainerFn.FITTING:
            keep_own_paths(checkpoint, trainer.callbacks)  # type: ignore[attr-defined]
            self._restored = checkpoint.get(WITHIN_EPOCH, {})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hide ``max_steps`` while Lightning restores its loops, or it would resume any run in mid-epoch."""
        loop = trainer.fit_loop.epoch_loop
        self._max_steps, loop.max_steps = loop.max_steps, -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, YOLOv5)
        restored, self._restored = self._restored, {}
        pl_module.augmentation.recent.reset()  # of an earlier fit that diverged
        if restored:
            self._restore(trainer, pl_module, restored)
        if not (restored.get("validates_first") and _go_back_to_validation(trainer)):
            self._limit_steps(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._limit_steps(trainer)

    def _limit_steps(self, trainer: Trainer) -> None:
        """Bring back ``max_steps``, not before the first validation if that is repeated."""
        if not trainer.sanity_checking:
            trainer.fit_loop.epoch_loop.max_steps = self._max_steps

    def _restore(self, trainer: Trainer, pl_module: YOLOv5, restored: dict[str, Any]) -> None:
        set_random_state(restored["random"])
        if not trainer.fit_loop.restarted_mid_epoch:
            return
        rank = trainer.global_rank
        means = {
            name: ranks[rank] if len(ranks) == trainer.world_size else ranks.mean()
            for name, ranks in restored["losses"].items()
        }
        pl_module.running_losses = {name: mean.to(pl_module.device) for name, mean in means.items()}
        loader: Any = trainer.train_dataloader
        if not hasattr(loader, "earlier"):  # the loader of another data module
            return
        epoch, loop = trainer.current_epoch, trainer.fit_loop.epoch_loop
        progress: Any = loop.batch_progress.current
        progress.ready = progress.started = progress.processed = loader.sampler.begins_at(epoch)
        # Lightning itself counts the last batch of a checkpoint saved at the end of a batch.
        progress.completed = progress.processed - int(loop.restarted_on_train_batch_end)
        if progress.ready >= trainer.num_training_batches:
            return  # only the validation remains, and the next epoch draws from its own images

        def remember() -> tuple[torch.Tensor, ...]:
            place, recent = progress.ready, pl_module.augmentation.recent
            capacity = recent.capacity(loader.batch_size, as_size(trainer.datamodule.image_size))  # type: ignore[attr-defined]
            kept = -(-capacity // loader.batch_size) - 1
            trained = [n for n in range(place) if (epoch, n) not in pl_module.left_out][-kept:]
            first = trained[0] if trained else place
            for number, batch in enumerate(loader.earlier(place - first), first):
                if number in trained:
                    pl_module.augmentation.remember(move(batch, pl_module.device), epoch)
            return ()

        run_beside(pl_module.device, remember, after_current=True)


def _go_back_to_validation(trainer: Any) -> bool:
    """Return to the aborted validation; False if the present options have no validation here."""
    # Otherwise checkpoints saved later in the epoch would lead back to this validation again.
    trainer.fit_loop.epoch_loop.val_loop.batch_progress.reset()
    make_timed_validation_due(trainer)
    if is_validation_due(trainer):
        return True
    advance_logging_step(trainer)
    return False


def random_state() -> dict[str, Any]:
    """State of Python's, NumPy's and torch's generators, as plain types and tensors."""
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
    """Set the generators to a state from :func:`random_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
