"""Contenders in turn, A B C, C B A, ..., so that drift favours no contender; each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .contenders.reading import PREFIX
from .plan import CORES, Plan
from .ratios import paired_ratio, spread
from .results import Result

ROUND = "{round}"
"""Stands in a command for the number of the round, from 0."""


@dataclass(frozen=True)
class Contender:
    """A program that prints one reading."""

    name: str
    does: str
    """What exactly is measured, in words."""
    module: str
    """Of ``benchmarks.contenders``."""
    arguments: tuple[str, ...]
    peer: str | None = None
    """Whose environment it runs in; None is ours."""
    is_ours: bool = True
    """Whether ratios say how much better this one is, or are taken against this one."""
    unit: str | None = None
    """Of its reading, where that is not the benchmark's."""
    before: Callable[[], None] | None = None
    """Called before each run, outside what is timed."""


@dataclass(frozen=True)
class Benchmark:
    """Contenders that do the same work."""

    name: str
    title: str
    unit: str
    contenders: list[Contender]
    rounds: int
    higher_is_better: bool = True
    notes: list[str] = field(default_factory=list)
    """What a reader has to know of how it was measured."""
    timeout_s: float = 3600.0
    warm_up: Contender | None = None
    """Runs once before the first round, unread: it fills caches that the first contender would fill alone."""


class Failure(RuntimeError):
    """A contender ended without a reading."""


def hold(
    benchmark: Benchmark,
    plan: Plan,
    interpreters: Mapping[str | None, Path],
    environments: Mapping[str | None, Mapping[str, str]],
    save: Callable[[Result], None],
) -> Result:
    """Run every round; a contender that fails is left out from there on, and the result says why.

    Args:
        benchmark: what to run.
        plan: gives the folders.
        interpreters: Python of each peer; None is ours.
        environments: environment variables of each peer.
        save: is given the result so far after every round.

    Raises:
        Failure: the warm-up ended without a reading.
    """
    readings: dict[str, list[dict[str, Any]]] = {c.name: [] for c in benchmark.contenders}
    failures: dict[str, str] = {}
    result: Result = {}
    if benchmark.warm_up is not None:
        peer = benchmark.warm_up.peer
        logs = plan.work / "logs" / benchmark.name
        run_contender(benchmark.warm_up, 0, interpreters[peer], environments[peer], logs, benchmark.timeout_s)
    for number in range(benchmark.rounds):
        for contender in benchmark.contenders[:: -1 if number % 2 else 1]:
            if contender.name in failures:
                continue
            label = f"{benchmark.name} {number + 1}/{benchmark.rounds} {contender.name}"
            try:
                reading = run_contender(
                    contender,
                    number,
                    interpreters[contender.peer],
                    environments[contender.peer],
                    plan.work / "logs" / benchmark.name,
                    benchmark.timeout_s,
                )
            except Failure as error:
                failures[contender.name] = str(error)
                print(f"{label}: FAILED: {error}", flush=True)
                continue
            readings[contender.name].append(reading)
            unit = contender.unit or benchmark.unit
            print(f"{label}: {reading['value']:.4g} {unit} ({reading['wall_s']:.0f} s)", flush=True)
        result = summarise(benchmark, readings, failures)
        save(result)
    return result


def run_contender(
    contender: Contender,
    number: int,
    python: Path,
    environment: Mapping[str, str],
    logs: Path,
    timeout_s: float,
) -> dict[str, Any]:
    """One reading, with ``wall_s`` (seconds of the whole process) added.

    Raises:
        Failure: it ended without one, or took too long.
    """
    if contender.before is not None:
        contender.before()
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{contender.name.replace(' ', '_').replace(',', '')}_{number}.log"
    command = [str(python), "-m", f"benchmarks.contenders.{contender.module}"]
    command += [argument.replace(ROUND, str(number)) for argument in contender.arguments]
    started = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=logs, env=dict(environment), stdout=file, stderr=subprocess.STDOUT,
            preexec_fn=_bind_to_cores, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise Failure(f"took more than {timeout_s:.0f} s; see {log}") from None
        finally:
            _end_group(process)
    wall_s = time.perf_counter() - started
    lines = log.read_text(errors="replace").strip().splitlines()
    found = [line for line in lines if line.startswith(PREFIX)]
    if status or not found:
        raise Failure(f"status {status}, last line: {lines[-1] if lines else 'none'}; see {log}")
    reading: dict[str, Any] = json.loads(found[-1].removeprefix(PREFIX))
    return {**reading, "wall_s": round(wall_s, 2)}


def _bind_to_cores() -> None:
    """Limit the child to this number of our cores: every contender gets the same."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End workers that a contender has left behind; they would run beside the next one."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()


def summarise(
    benchmark: Benchmark, readings: Mapping[str, list[dict[str, Any]]], failures: Mapping[str, str]
) -> Result:
    """What the JSON of a benchmark says, machine and date apart."""
    contenders: dict[str, Any] = {}
    for contender in benchmark.contenders:
        taken = readings[contender.name]
        entry: dict[str, Any] = {
            "does": contender.does,
            "unit": contender.unit or benchmark.unit,
            "is_ours": contender.is_ours,
            "program": f"benchmarks.contenders.{contender.module}",
            "arguments": list(contender.arguments),
        }
        if taken:
            values = [reading["value"] for reading in taken]
            entry |= {
                "versions": taken[0]["versions"],
                "readings": values,
                **spread(values),
                "wall_s": [reading["wall_s"] for reading in taken],
                "details": [reading["details"] for reading in taken],
            }
        if contender.name in failures:
            entry["failed"] = failures[contender.name]
        contenders[contender.name] = entry
    ratios = {}
    for ours in (c for c in benchmark.contenders if c.is_ours):
        for theirs in (c for c in benchmark.contenders if not c.is_ours):
            pairs = list(zip(readings[ours.name], readings[theirs.name], strict=False))
            if pairs and ours.unit == theirs.unit:
                a, b = ([pair[i]["value"] for pair in pairs] for i in range(2))
                ratios[f"{ours.name} / {theirs.name}"] = paired_ratio(a, b, benchmark.higher_is_better)
    return {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "unit": benchmark.unit,
        "higher_is_better": benchmark.higher_is_better,
        "notes": benchmark.notes,
        "rounds": benchmark.rounds,
        "contenders": contenders,
        "ratios": ratios,
    }
