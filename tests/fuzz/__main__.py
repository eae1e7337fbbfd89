"""Fuzz the readers of files: ``python -m tests.fuzz TARGET ... --minutes 10``.

    python -m tests.fuzz coco image --minutes 10    new examples each time, ten minutes a target
    python -m tests.fuzz all --examples 50          the same 50 examples each time, as the tests do
    python -m tests.fuzz labels --atheris           guided by coverage, endless; needs pip install atheris

An example that raises anything but an InputError is made as small as possible and printed. An example that
takes a minute ends the program with a traceback; memory is limited to 4 GB more than the imports take.
"""

from __future__ import annotations

import argparse
import faulthandler
import inspect
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import torch
from hypothesis import HealthCheck, given, settings

from tests.fuzz.targets import TARGETS, Target

_MEMORY_BYTES = 4 << 30
_HANGS_AFTER_S = 60.0
_ROUND = 200  # examples that one run of hypothesis draws


def limit_memory() -> None:
    """Limit the address space to what the process has and 4 GB; torch alone takes gigabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def make_test(
    target: Target, folder: Path, counts: Counter[str], examples: int = _ROUND, same: bool = False
) -> Callable[[], None]:
    """A test of hypothesis that counts what was read and refused; its examples are the ``same`` each time."""

    @settings(
        database=None, deadline=None, suppress_health_check=list(HealthCheck),
        max_examples=examples, derandomize=same,
    )  # fmt: skip
    @given(example=target.examples)
    def test(example: Any) -> None:
        faulthandler.dump_traceback_later(_HANGS_AFTER_S, exit=True, file=sys.__stderr__)
        try:
            counts["read" if target.check(folder, example) else "refused"] += 1
        finally:
            faulthandler.cancel_dump_traceback_later()

    return test


def fuzz(name: str, minutes: float, examples: int) -> bool:
    """Fuzz one target for a number of examples, or for some minutes; False if there is a finding."""
    target, counts, begun = TARGETS[name], Counter[str](), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz.") as folder:
        target.prepare(Path(folder))
        try:
            if examples:
                make_test(target, Path(folder), counts, -(-examples // target.cost), same=True)()
            while not examples and time.monotonic() - begun < 60 * minutes:
                make_test(target, Path(folder), counts)()
        except Exception:
            print(f"{name}: a finding after {counts.total()} examples", file=sys.stderr)
            sys.excepthook(*sys.exc_info())
            return False
    seconds = time.monotonic() - begun
    print(
        f"{name}: {counts['read']} read, {counts['refused']} refused, none else, in {seconds:.0f} s",
        flush=True,
    )
    return True


def fuzz_by_coverage(name: str, arguments: list[str]) -> None:
    """Let atheris choose the bytes from which hypothesis draws its examples."""
    import atheris  # type: ignore[import-untyped]

    folder = Path(tempfile.mkdtemp(prefix="fuzz."))
    TARGETS[name].prepare(folder)
    test: Any = make_test(TARGETS[name], folder, Counter())
    for module in [module for name, module in sys.modules.items() if name.startswith("yolo_lightning.")]:
        for function in filter(inspect.isfunction, list(vars(module).values())):
            if function.__module__ == module.__name__:
                atheris.instrument_func(function)
    atheris.Setup([sys.argv[0], *arguments], test.hypothesis.fuzz_one_input)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(
        "tests.fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "targets", nargs="+", choices=[*TARGETS, "all"], metavar="TARGET", help=", ".join([*TARGETS, "all"])
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="time for each target (default: 1)")
    parser.add_argument("--examples", type=int, default=0, help="the same examples each time instead")
    parser.add_argument(
        "--atheris",
        action="store_true",
        help="one target guided by coverage; further options are libFuzzer's",
    )
    options, more = parser.parse_known_args()
    names = list(TARGETS) if "all" in options.targets else options.targets
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    hypothesis.configuration.set_hypothesis_home_dir(tempfile.gettempdir())
    limit_memory()
    if options.atheris:
        fuzz_by_coverage(names[0], more)
    elif more:
        parser.error(f"unknown options: {' '.join(more)}")
    return 0 if all([fuzz(name, options.minutes, options.examples) for name in names]) else 1


if __name__ == "__main__":
    sys.exit(main())
