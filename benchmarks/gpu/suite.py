"""Runs parts one by one until the time is spent, and continues where it was cut."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..plan import REPOSITORY
from ..results import without_places
from .parts import Part
from .store import Store

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
ENDING_S = 3.0
"""Kept back from the time of a part, for ending it and writing the results."""


@dataclass(frozen=True)
class Places:
    """Folders of a run."""

    work: Path
    """Pictures, caches, runs and logs."""
    site: Path
    """Packages that were carried."""


class Cut(Exception):
    """The time of the whole suite ended within a part."""


Runner = Callable[[Part, float], dict[str, Any]]
"""Runs a part for at most so many seconds; returns what is to be recorded, or raises :class:`Cut`."""


def run_parts(
    parts: Sequence[Part],
    store: Store,
    runner: Runner,
    budget_s: float,
    *,
    retry: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> list[str]:
    """Run what is not finished yet, in order, and record each as it ends.

    A part is begun only where its least time is left; one that the end of the budget cuts is not
    recorded, so that the next call runs it again.

    Args:
        parts: all of the suite.
        store: what is finished, and where the rest is recorded.
        runner: runs one.
        budget_s: seconds for all.
        retry: whether parts that failed are run again.
        clock: seconds that have passed.

    Returns:
        Names of the parts that are still to be run.
    """
    began = clock()
    pending = [part for part in parts if not store.is_finished(part.name, retry)]
    left_over = []
    for part in pending:
        left_s = budget_s - (clock() - began) - ENDING_S
        if left_s < part.least_s:
            left_over.append(part.name)
            continue
        started = clock()
        try:
            entry = runner(part, left_s)
        except Cut:
            print(f"{part.name}: cut after {clock() - started:.0f} s", flush=True)
            left_over.append(part.name)
            continue
        entry["wall_s"] = round(clock() - started, 2)
        store.record(part.name, entry)
        print(f"{part.name}: {headline(entry)} ({entry['wall_s']:.0f} s)", flush=True)
    return left_over


def headline(entry: dict[str, Any]) -> str:
    """The outcome of a part in a few words."""
    if "error" in entry:
        return f"FAILED: {entry['error']}"
    reading = entry["reading"]
    if "ms" in reading:
        return f"{reading['ms']:.2f} ms, {reading['peak_memory_mb']:.0f} MB, {reading['tflops']:.3g} TFLOP/s"
    if "images_per_second" in reading:
        return f"{reading['images_per_second']:.4g} images/s"
    return "done"


def run_in_process(part: Part, left_s: float, places: Places, toy: bool) -> dict[str, Any]:
    """Run a part in a process of its own, and end everything that it leaves behind.

    Returns:
        ``reading``, ``versions`` and ``measured_s``; or ``error``, the reason in one line, and the end of
        its log.

    Raises:
        Cut: it was still running when the suite's time ended.
    """
    name = part.name.replace("/", "_")
    result, log = places.work / "results" / f"{name}.json", places.work / "logs" / f"{name}.log"
    for path in (result, log):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu.launch", part.module, str(result), str(places.site)]
    command += [*part.options, "--work", str(places.work)]
    limit_s = min(left_s, part.most_s)
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=places.work,
            env=environment(places.work, toy),
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            if not result.exists() and limit_s < part.most_s:
                raise Cut from None
        finally:
            _end_group(process)
    if result.exists():
        found: dict[str, Any] = json.loads(result.read_text())
        return found
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    reason = lines[-1][:300] if lines else f"status {process.returncode} without a word"
    if process.returncode == -signal.SIGKILL:
        reason = f"ended after {limit_s:.0f} s; its last line: {reason}"
    names = {str(places.work): "WORK", str(REPOSITORY): "REPOSITORY", sys.prefix: "PYTHON"}
    failure: dict[str, Any] = without_places({"error": reason, "log": lines[-15:]}, names)
    return failure


def _end_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()


def environment(work: Path, toy: bool) -> dict[str, str]:
    """Environment variables of a part: settings and caches go under ``work``, nothing looks for a network."""
    home = work / "home"
    home.mkdir(parents=True, exist_ok=True)
    kept = {name: text for name, text in os.environ.items() if toy or name not in _THREAD_VARIABLES}
    return {
        **kept,
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        "TRITON_CACHE_DIR": str(work / "triton"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "YOLO_CONFIG_DIR": str(home),
        "YOLOV5_CONFIG_DIR": str(home / "Ultralytics"),
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLOv5_AUTOINSTALL": "false",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
        "WANDB_MODE": "disabled",
        "MPLBACKEND": "Agg",
    }
