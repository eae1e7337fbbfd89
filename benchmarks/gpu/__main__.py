"""The command: ``python -m benchmarks.gpu --out DIR``."""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from ..results import describe_machine, git_commit
from .chips import ask_driver, result_name
from .packages import unpack
from .parts import FULL, TOY, list_parts
from .store import Store
from .suite import Places, run_in_process, run_parts
from .summary import as_lines, summarise


def main(argv: list[str] | None = None) -> int:
    """Run what is left of the suite; 0 when all is finished, 3 when a further call is needed, 1 on errors."""
    began = time.monotonic()
    arguments = sys.argv[1:] if argv is None else argv
    options = _parser().parse_args(arguments)
    scale = TOY if options.toy else FULL
    name = result_name(options.device, options.toy, ask_driver())
    store = Store(options.out.absolute(), name)
    work = (options.work or options.out / "work").absolute() / name
    places = Places(work, unpack(options.wheels and options.wheels.absolute(), work / "site"))
    parts = list_parts(scale, options.device, options.toy)
    chosen = [p for p in parts if any(fnmatch.fnmatch(p.name, pattern) for pattern in options.only)]
    store.content["calls"].append(_describe_call(arguments, options.commit))
    if not (work / "pictures").exists():  # on another machine than last time
        store.parts.pop("pictures", None)
    left = options.budget_s - (time.monotonic() - began)
    runner = partial(run_in_process, places=places, toy=options.toy)
    left_over = run_parts(chosen, store, runner, left, retry=options.retry)
    store.content["summary"] = summarise(
        store.parts, scale.models, options.device == "cuda" and not options.toy
    )
    store.content["not_run"] = left_over
    store.save()
    print("\n".join(as_lines(store.content["summary"])))
    failed = [part.name for part in chosen if "error" in store.parts.get(part.name, {})]
    for words, names in (("still to be run", left_over), ("failed", failed)):
        if names:
            print(f"{words}: {', '.join(names)}")
    print(f"{store.path}, after {time.monotonic() - began:.0f} s")
    return 3 if left_over else int(bool(failed))


def _describe_call(arguments: list[str], commit: str | None) -> dict[str, Any]:
    """When and how the suite was called; places of this machine are left out."""
    shown, hide = [], False
    for word in arguments:
        shown.append("DIR" if hide else word)
        hide = word in ("--out", "--work", "--wheels")
    machine = describe_machine(cores=0)
    machine["cores_used"] = machine["cores"]
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks.gpu {' '.join(shown)}",
        "commit": commit or git_commit(),
        "machine": machine,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description="Measures training on one GPU against ultralytics and yolov5. Writes a JSON after "
        "every part; a further call continues where this one ended. Uses no network.",
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the result, one file a kind of GPU")
    add("--work", type=Path, help="folder for pictures, caches and logs (default: OUT/work)")
    add("--wheels", type=Path, help="folder of wheels that this machine lacks, see benchmarks.gpu.wheels")
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--toy", action="store_true", help="everything tiny: shows that the suite runs, measures nothing")
    add("--budget_s", type=float, default=460.0, help="seconds after which it ends (default: %(default)s)")
    add(
        "--only",
        nargs="+",
        default=["*"],
        help="names of parts, with *: chip pictures step/s/* train/*/ours/*",
    )
    add("--retry", action="store_true", help="run parts again that have failed")
    add("--commit", help="of these sources, where git cannot tell")
    return parser


if __name__ == "__main__":
    sys.exit(main())
