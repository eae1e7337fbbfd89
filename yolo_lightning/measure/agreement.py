"""One choice for all processes of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict

from ..compilation import CompileOption
from .candidates import Candidate, StepShape
from .choice import Choice, choose, default_candidate, make_wish

NOMINAL_LABELS = 32
"""Label rows to measure with: the choice is made before the data is read, and hardly depends on them."""
CHOICE = "YOLO_LIGHTNING_CHOICE"
"""Environment variable by which the first process tells those that it starts what it chose."""


def choose_for_run(
    shape: StepShape,
    precision: str | None,
    channels_last: bool | str,
    compile: CompileOption,
    announce: Callable[[str], None] = lambda _: None,
) -> Choice:
    """What :func:`choice.choose` chooses, the same in every process.

    Processes that this one starts are told by an environment variable. Those that torchrun or Slurm
    start side by side, perhaps on several machines, do not measure: they follow a rule.

    Args:
        shape: of the step.
        precision: as ``trainer.precision``; None leaves it open.
        channels_last: as ``model.channels_last``: a bool, or auto.
        compile: as ``model.compile``; auto leaves it open.
        announce: is told what is about to be measured.
    """
    told = os.environ.get(CHOICE)
    if told and int(os.environ.get("LOCAL_RANK", 0)) > 0:
        return Choice(Candidate(**json.loads(told)), "as the first process chose")
    if max(int(os.environ.get(name) or 1) for name in ("WORLD_SIZE", "SLURM_NTASKS")) > 1:
        rule = default_candidate(shape.device, make_wish(precision, channels_last, compile))
        return Choice(rule, f"{rule}: by a rule, so that all processes choose alike")
    choice = choose(shape, precision, channels_last, compile, announce=announce)
    os.environ[CHOICE] = json.dumps(asdict(choice.candidate))
    return choice
