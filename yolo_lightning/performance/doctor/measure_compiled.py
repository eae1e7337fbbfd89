"""What a compiled step takes: measured in a process of its own, which is ended when it takes too long.

Compiling a network takes minutes on a small machine, cannot be interrupted, and leaves its traces in
the process. What the compiler wrote to its cache on disk is found by the training later.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from typing import Any

import torch

from ...data.augment import AugmentationConfig
from ...system.text import first_line
from .candidates import Candidate, StepShape, StepTime
from .measure_steps import measure_steps

_RESULT = "measured: "
_MODULE = "yolo_lightning.performance.doctor.measure_compiled"


def measure_compiled(
    shape: StepShape, eager: StepTime, *, deadline_s: float, budget_s: float = 8.0
) -> StepTime:
    """Time the compiled form of a candidate whose eager form was measured.

    The other process measures both in turn, and what counts is their ratio: between two processes the
    speed of a machine may change.

    Args:
        shape: of the step.
        eager: what was measured of the eager form here.
        deadline_s: how long compiling and measuring may take.
        budget_s: about how long the measuring may take.

    Returns:
        The result of the compiled candidate; if it was not done in time, or could not be compiled,
        its ``failure`` says so.
    """
    candidate = replace(eager.candidate, compile=True)
    failed = StepTime(candidate, eager.batch_size)
    answer = _ask({"shape": asdict(shape), "candidate": asdict(candidate), "budget_s": budget_s}, deadline_s)
    if isinstance(answer, str):
        return replace(failed, failure=answer)
    there, compiled = (StepTime.from_json(each) for each in answer)
    if compiled.failure or there.failure:
        return replace(failed, failure=compiled.failure or there.failure)
    return at_the_speed_of(eager, there, compiled)


def at_the_speed_of(eager: StepTime, there: StepTime, compiled: StepTime) -> StepTime:
    """What ``compiled``, measured beside ``there``, would take where ``eager`` was measured."""
    ratio = eager.quick_ms / there.quick_ms
    return replace(
        compiled,
        batch_size=eager.batch_size,
        median_ms=compiled.median_ms * ratio,
        quick_ms=compiled.quick_ms * ratio,
        spread_ms=compiled.spread_ms * ratio,
    )


def _ask(question: dict[str, Any], deadline_s: float) -> list[dict[str, Any]] | str:
    """The answer of another process, or why there is none."""
    process = subprocess.Popen(
        [sys.executable, "-m", _MODULE, json.dumps(question)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that the compiler's own processes end with it
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    try:
        output, errors = process.communicate(timeout=max(1.0, deadline_s))
    except subprocess.TimeoutExpired:
        return f"compiling was not done after {deadline_s:.0f} s"
    finally:
        _end(process)
    for line in output.splitlines():
        if line.startswith(_RESULT):
            found: list[dict[str, Any]] = json.loads(line.removeprefix(_RESULT))
            return found
    last = (errors.strip().splitlines() or ["no message"])[-1]
    return f"compiling failed ({last[:120]})"


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and those that it started; they share a session of their own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError, AttributeError):
        process.kill()
    process.wait()


def answer(question: str) -> str:
    """Measure what another process asks for; see :func:`measure_compiled`."""
    asked = json.loads(question)
    config = AugmentationConfig(**asked["shape"].pop("augmentation"))
    shape = StepShape(**asked["shape"], augmentation=config)
    candidate = Candidate(**asked["candidate"])
    try:
        both = measure_steps(
            shape, [replace(candidate, compile=False), candidate], budget_s=asked["budget_s"]
        )
    except Exception as error:  # a compiler may raise anything
        failed = StepTime(candidate, shape.batch_size, failure=first_line(error))
        both = [failed, failed]
    return _RESULT + json.dumps([time.as_json() for time in both])


if __name__ == "__main__":
    print(answer(sys.argv[1]), flush=True)
