"""What a checkpoint says about the run that is resumed from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .errors import InputError


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
        loop = contents["loops"]["fit_loop"]
        epoch, batch = (loop[name]["current"] for name in ("epoch_progress", "epoch_loop.batch_progress"))
        within = epoch["started"] > epoch["processed"]
        extra = contents.get("within_epoch", {})
        validates_first = bool(extra.get("validates_first"))
        logged = contents["callbacks"].get("RunRecorder", {}).get("logged_step", -1)
        if within:  # what was logged by then is in the curves, what came later is going to come again
            logged = loop["epoch_loop.state_dict"]["_batches_that_stepped"]
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
