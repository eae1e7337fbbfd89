"""One choice for all processes of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict

from ...errors import InputError
from ...training.compilation import CompileOption
from ..doctor.candidates import Candidate, StepShape
from .choose import Choice, choose, default_candidate, make_wish

NOMINAL_LABELS = 32
"""Label rows to measure with: the choice is made before the data is read, and hardly depends on them."""
CHOICE = "YOLO_LIGHTNING_CHOICE"
"""Environment variable by which the first process tells those that it starts what it chose."""


def choose_for_run(
    shape: StepShape,
    precision: str | None,
    channels_last: bool | str,
    compile: CompileOption,
    nodes: int = 1,
    announce: Callable[[str], None] = lambda _: None,
) -> Choice:
    """What :func:`choice.choose` chooses, the same in every process; never the end of a run.

    Processes that this one starts are told by an environment variable. Those that torchrun or Slurm
    start side by side, perhaps on several machines, do not measure: they follow a rule. So does
    whoever fails to measure; what is wrong with the options is told by those that they are for.

    Args:
        shape: of the step.
        precision: as ``trainer.precision``; None leaves it open.
        channels_last: as ``model.channels_last``: a bool, or auto.
        compile: as ``model.compile``; auto leaves it open.
        nodes: machines of the run.
        announce: is told what is about to be measured.

    Raises:
        InputError: a precision that there is not.
    """
    question = repr((shape, precision, channels_last, compile))
    told = json.loads(os.environ.get(CHOICE, "{}"))
    # The variable is inherited by whatever is started later, too: it counts for this question alone.
    if told.get("question") == question and told.get("process") == os.getppid():
        return Choice(Candidate(**told["candidate"]), "as the first process chose")
    rule = default_candidate(shape.device, make_wish(precision, channels_last, compile))
    beside = max(int(os.environ.get(name) or 1) for name in ("WORLD_SIZE", "SLURM_NTASKS"))
    if beside > 1 or nodes > 1:
        return Choice(rule, f"{rule}: by a rule, so that all processes choose alike")
    try:
        choice = choose(shape, precision, channels_last, compile, announce=announce)
    except InputError:
        raise
    except Exception as error:
        choice = Choice(rule, f"{rule}: by a rule, since it could not be measured ({_first_line(error)})")
    answer = {"question": question, "process": os.getpid(), "candidate": asdict(choice.candidate)}
    os.environ[CHOICE] = json.dumps(answer)
    return choice


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
