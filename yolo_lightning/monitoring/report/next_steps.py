"""Commands to continue from a run, ready to copy."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from .read import Run

PHOTOS = "PHOTOS"
"""Placeholder for the reader's own pictures."""


def commands(run: Run) -> Iterator[tuple[str, str]]:
    """(purpose, command) with the paths of this run, quoted for a shell."""
    best, last = run.checkpoint("best"), run.checkpoint("last")
    epochs, trained = run.option("trainer.max_epochs"), int(run.last["epoch"]) + 1
    if last:
        if isinstance(epochs, int) and 0 < epochs <= trained:
            longer = _command("fit", "--ckpt_path", last, "--trainer.max_epochs", 2 * epochs)
            yield f"Train longer, to {2 * epochs} epochs", longer
        else:
            yield "Resume where it stopped", _command("fit", "--ckpt_path", last)
    weights = best or last
    if weights:
        yield "Validate", _command("validate", "--ckpt_path", weights)
        predict = _command("predict", "--ckpt_path", weights, "--data.predict_source", PHOTOS)
        yield f"Find objects in {PHOTOS}, a picture or a folder", predict
    if run.config:
        yield "Train again with the same options", _command("fit", "--config", run.directory / "config.yaml")
    yield "Show the curves in TensorBoard", f"tensorboard --logdir {shlex.quote(str(run.directory))}"
    yield "Write this report again", _command("report", run.directory)


def _command(*words: str | int | Path) -> str:
    return shlex.join(["yolo-lightning", *map(str, words)])
