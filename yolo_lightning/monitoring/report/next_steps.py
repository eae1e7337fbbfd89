"""The commands that go on from a run, ready to be copied."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from .html import Section, both
from .markup import Markup, tag
from .read import Run

_PROGRAM = "yolo-lightning"
PHOTOS = "PHOTOS"
"""Stands for what the user has to fill in."""


def section(run: Run) -> Section:
    """What to do with the weights, one command each."""
    parts = [
        tag("div", tag("h3", title), tag("pre", tag("code", command), class_="command"))
        for title, command in commands(run)
    ]
    return Section("next", "Go on from here", both(*parts))


def commands(run: Run) -> Iterator[tuple[str, str]]:
    """(what it does, command) with the paths of this run, quoted for a shell."""
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
    yield "See the curves", f"tensorboard --logdir {shlex.quote(str(run.directory))}"
    yield "Make this report again", _command("report", run.directory)


def _command(*words: str | int | Path) -> str:
    return shlex.join([_PROGRAM, *map(str, words)])


def footnote() -> Markup:
    """Who made the page."""
    return tag("span", f"Made by {_PROGRAM} from the files beside it. Epochs count from 1.")
