"""``python -m benchmarks.run``: prepares data and peers, runs every benchmark in turn, and writes JSON.

``python -m benchmarks.report`` makes the table and the plot of docs/benchmarks.md from it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from .contest import Benchmark, hold
from .peers import environment_of, python_of
from .plan import CORES, REPOSITORY, Plan
from .results import Result, describe_machine, git_commit, without_places, write_result
from .suite.checkpoints import checkpoints
from .suite.dashboard import dashboard
from .suite.loaders import loader, loader_12mp
from .suite.ours import memory, metric
from .suite.training import ceiling, fit_fast, fit_wall, train, train_nu

BENCHMARKS: dict[str, Callable[[Plan], Benchmark]] = {
    "checkpoints": checkpoints,
    "dashboard": dashboard,
    "loader": loader,
    "loader_12mp": loader_12mp,
    "train": train,
    "train_nu": train_nu,
    "ceiling": ceiling,
    "memory": memory,
    "metric": metric,
    "fit_wall": fit_wall,
    "fit_fast": fit_fast,
}
_NEEDS_BCCD = ("train", "train_nu", "ceiling", "fit_wall", "fit_fast", "checkpoints", "dashboard")
_NEEDS_WEIGHTS = ("train", "ceiling", "fit_wall", "fit_fast", "checkpoints", "dashboard")
_DEFAULT_WORK = "~/.cache/yolo_lightning_benchmarks"


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; return 1 when a contender failed."""
    argv = sys.argv[1:] if argv is None else argv
    options = _parser().parse_args(argv)
    plan = _plan(options)
    out = options.out or (plan.work / "toy_results" if plan.toy else REPOSITORY / "benchmarks" / "results")
    failed = False
    for name in options.only or BENCHMARKS:
        reason = missing(name, plan)
        if reason:
            print(f"{name} is skipped: {reason}", flush=True)
            continue
        result = run_benchmark(BENCHMARKS[name](plan), plan, out, argv)
        failed |= any("failed" in contender for contender in result.get("contenders", {}).values())
    print(f"results are in {out}")
    return int(failed)


def missing(name: str, plan: Plan) -> str | None:
    """Why a benchmark cannot run, or None."""
    if name in _NEEDS_BCCD and plan.bccd is None and not plan.toy:
        return "it trains on BCCD; give --bccd DIR or set YOLO_LIGHTNING_BCCD"
    if name in _NEEDS_WEIGHTS and plan.weights is None:
        return "it starts from the official yolov5n.pt; give --weights FILE or set YOLO_LIGHTNING_WEIGHTS"
    return None


def run_benchmark(benchmark: Benchmark, plan: Plan, out: Path, argv: list[str]) -> Result:
    """Run the contenders that can run, and write the JSON after every round."""
    if plan.contenders is not None:
        kept = [c for c in benchmark.contenders if c.name in plan.contenders]
        benchmark = replace(benchmark, contenders=kept)
    interpreters: dict[str | None, Path] = {}
    for peer in dict.fromkeys(contender.peer for contender in benchmark.contenders):
        try:
            interpreters[peer] = python_of(plan, peer) if peer else Path(sys.executable)
        except RuntimeError as error:
            print(f"{benchmark.name}: {peer} is left out: {error}", flush=True)
    kept = [contender for contender in benchmark.contenders if contender.peer in interpreters]
    benchmark = replace(benchmark, contenders=kept)
    if not kept:
        return {}
    facts = {
        "machine": describe_machine(CORES),
        "commit": git_commit(),
        "date": time.strftime("%Y-%m-%d"),
        "toy": plan.toy,
        "command": shlex.join(["python", "-m", "benchmarks.run", *argv]),
    }
    save = partial(_save, out, facts, {**_places(plan), str(out): "OUT"})
    environments = {peer: environment_of(plan, peer) for peer in interpreters}
    return hold(benchmark, plan, interpreters, environments, save)


def _save(out: Path, facts: Result, places: dict[str, str], result: Result) -> None:
    write_result(out, without_places({**result, **facts}, places))


def _places(plan: Plan) -> dict[str, str]:
    """Paths that mean nothing elsewhere, and what stands for them in a result."""
    places: dict[str, Path | None] = {
        "WORK": plan.work,
        "BCCD": plan.bccd,
        "YOLOV5N": plan.weights,
        "REPOSITORY": REPOSITORY,
        "HOME": Path.home(),
        **{f"ENVIRONMENT_{peer}": path for peer, path in plan.peer_environments.items()},
    }
    return {str(path): word for word, path in places.items() if path is not None}


def _plan(options: argparse.Namespace) -> Plan:
    environments = {}
    for given in options.peer_env:
        peer, _, folder = given.partition("=")
        environments[peer] = Path(folder).expanduser().absolute()
    return Plan(
        work=options.work,
        rounds=options.rounds,
        toy=options.toy,
        bccd=options.bccd,
        weights=options.weights,
        peer_environments=environments,
        fit_epochs=options.fit_epochs,
        contenders=tuple(options.contenders) if options.contenders else None,
    )


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    add = parser.add_argument
    add("--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    add("--contenders", nargs="+", metavar="NAME", help="run these contenders only, e.g. ours yolov5")
    add("--rounds", type=int, help="rounds of each benchmark (default: 5; fit_wall 3; memory, metric 1)")
    add("--fit-epochs", type=int, default=30, help="epochs of fit_wall (default: 30)")
    add("--toy", action="store_true", help="everything tiny: shows that the code runs, measures nothing")
    add("--work", type=_path, default=_path(_DEFAULT_WORK), help=f"cache folder (default: {_DEFAULT_WORK})")
    add("--out", type=_path, help="folder of the JSON files (default: benchmarks/results)")
    add("--bccd", type=_path, default=_from_environment("BCCD"), help="the BCCD data set, with data.yaml")
    add("--weights", type=_path, default=_from_environment("WEIGHTS"), help="the official yolov5n.pt")
    add(
        "--peer-env",
        action="append",
        default=[],
        metavar="PEER=DIR",
        help="an existing environment of yolov5 or ultralytics, instead of making one",
    )
    return parser


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(f"YOLO_LIGHTNING_{name}")
    return _path(value) if value else None


if __name__ == "__main__":
    sys.exit(main())
